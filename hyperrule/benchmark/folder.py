"""The folder of a benchmark, with these files:

grid.yaml        the grid of the last command
keys.json        the key of every cell, see below
ledger.jsonl     one line per finished cell
subsets/         the images of each subset: DATASET-SHOTS-SEED.txt, one id a line
runs/KEY/        trainings: plan.json, metrics.jsonl, eval.json; weights and checkpoints until they are finished
claims/          locks on cells that are being measured, see `ledger.claim`
.planned-*/      planned cells, handed over to the processes that measure them

keys.json has the key of every cell when its data set and backbone were last opened, by a hash of the cell's description
in the grid. It shows which cells are done without opening anything.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from hyperrule.benchmark.cells import PreparedCell, list_file, subset, write_list
from hyperrule.benchmark.grid import Cell, Grid, ProbeMethod
from hyperrule.benchmark.ledger import Line, append, read_ledger
from hyperrule.errors import RunFolderError
from hyperrule.planning.planner import installed_versions
from hyperrule.planning.training_plan import EXECUTION_FIELDS
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import file_lock, os_errors_as, write_text

# Files of another process that is about to write the grid, or was killed while doing so.
BEGUN = {".lock", "grid.yaml.partial"}
NO_RESULT = {"dataset", "data_dir", *EXECUTION_FIELDS}  # options that do not change results: locations and execution
SUBSET = {"seed", "examples_per_class"}  # options that a cell has itself


class BenchFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.grid_file = path / "grid.yaml"
        self.ledger_file = path / "ledger.jsonl"
        self.index = Index(path / "keys.json")
        self.claims = path / "claims"

    def run(self, key: str) -> RunFolder:
        retry = f"hyperrule bench {quote(str(self.grid_file))} --out {quote(str(self.path))} --retry-failed"
        return RunFolder(self.path / "runs" / key, resume=retry)

    def check(self) -> None:
        """Raises RunFolderError if the folder belongs to something else, or to another version."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"--out {path} is a file. Choose a folder.")
        if path.is_dir() and not BEGUN.issuperset(os.listdir(path)) and not self.grid_file.exists():
            raise RunFolderError(f"--out {path} is not empty and has no benchmark. Choose another folder.")
        self.read()

    def prepare(self, grid: Grid, planned: list[PreparedCell]) -> None:
        """Write the grid, the keys and the subsets. Raises RunFolderError if that fails."""
        self.check()
        path = self.path
        with os_errors_as(RunFolderError, f"--out {path} cannot be used"), file_lock(path / ".lock"):
            write_text(self.grid_file, grid.to_yaml())
            self.index.note(grid, planned)
            self._write_subsets(planned)

    def read(self) -> dict[str, Line]:
        """Return the lines of the ledger, by key."""
        return {line.key: line for line in read_ledger(self.ledger_file)}

    def add(self, line: Line) -> None:
        append(self.ledger_file, line)

    def keep_figures(self, key: str) -> None:
        """Remove the large files of a training, if the cell is one."""
        run = self.run(key)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        run.lock_file.unlink(missing_ok=True)

    def _write_subsets(self, planned: list[PreparedCell]) -> None:
        """Write the list of each subset, but none for all images."""
        wanted = {
            (one.cell.dataset, one.cell.shots, one.cell.seed): one.source for one in planned if one.cell.shots != "full"
        }
        for (dataset, shots, seed), source in wanted.items():
            training = source.examples("train")
            chosen = subset(training, source.info.class_names, shots, seed)
            write_list(list_file(self.path / "subsets", dataset, shots, seed), training.take(chosen))


class Index:
    def __init__(self, file: Path) -> None:
        self.file = file

    def keys(self, grid: Grid) -> dict[Cell, str | None]:
        """Return the key of every cell; None for a new or changed cell. Raises RunFolderError."""
        stored = self._read()
        return {cell: stored.get(wording) for cell, wording in _wordings(grid).items()}

    def note(self, grid: Grid, planned: Iterable[PreparedCell]) -> None:
        """Add keys. The caller holds the lock of the folder."""
        wordings = _wordings(grid)
        known = {**self._read(), **{wordings[one.cell]: one.key for one in planned}}
        write_text(self.file, json.dumps(known, indent=0))

    def _read(self) -> dict[str, str]:
        if not self.file.exists():
            return {}
        try:
            with os_errors_as(RunFolderError, f"cannot read {self.file}"):
                stored: dict[str, str] = json.loads(self.file.read_bytes())
            return dict(stored)
        except (ValueError, TypeError):
            raise RunFolderError(f"{self.file} is damaged. Remove it: 'hyperrule bench' writes it again.") from None


def _wordings(grid: Grid) -> dict[Cell, str]:
    """Return the SHA-256 of each cell's description in the grid."""
    alike: dict[tuple[str, str, str], str] = {}  # shared by all subsets, because making a recipe is slow
    wordings, versions = {}, installed_versions()
    for cell in grid.cells():
        group = cell.dataset, cell.backbone, cell.method
        if group not in alike:
            method = grid.methods.asked[cell.method]
            common = {
                "recipe": grid.recipe(cell).model_dump(mode="json", exclude=NO_RESULT | SUBSET),
                "test": grid.datasets[cell.dataset].test,
                "l2": method.l2 if isinstance(method, ProbeMethod) else None,
                "versions": versions,
            }
            alike[group] = json.dumps(common, sort_keys=True)
        wordings[cell] = hashlib.sha256((alike[group] + cell.model_dump_json()).encode()).hexdigest()
    return wordings
