"""The folder of a benchmark: what it holds, and where.

grid.yaml        what was asked for last
keys.json        the key of every cell, see `index`
ledger.jsonl     a line a finished cell
subsets/         the images of each subset: DATASET-SHOTS-SEED.txt, an id a line
runs/KEY/        trainings: plan.json, metrics.jsonl, eval.json; weights and checkpoints until they are finished
claims/          who is at work on what, see `claims`
.planned-*/      the planned cells for the processes that work on them, while there are any

keys.json: the key that every cell had when its data set and backbone were last opened, by what the grid says of the
cell, so that nothing has to be opened to tell what is done.
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
from hyperrule.support.files import atomic_write, file_lock, os_errors_as

BEGUN = {".lock", "grid.yaml.partial"}  # what another process has that is about to write the grid, or was killed then


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
        """Raises RunFolderError if the folder is something else's, or of another version."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"--out {path} is a file. Choose a folder.")
        if path.is_dir() and not BEGUN.issuperset(os.listdir(path)) and not self.grid_file.exists():
            raise RunFolderError(f"--out {path} is not empty, and holds no benchmark. Choose another folder.")
        self.read()

    def prepare(self, grid: Grid, planned: list[PreparedCell]) -> None:
        """Write the grid, the keys and the subsets. Raises RunFolderError."""
        self.check()
        path = self.path
        with os_errors_as(RunFolderError, f"--out {path} cannot be used"), file_lock(path / ".lock"):
            with atomic_write(self.grid_file) as partial:
                partial.write_text(grid.to_yaml(), encoding="utf-8")
            self.index.note(grid, planned)
            self._write_subsets(planned)

    def read(self) -> dict[str, Line]:
        """The ledger, by key."""
        return {line.key: line for line in read_ledger(self.ledger_file)}

    def add(self, line: Line) -> None:
        append(self.ledger_file, line)

    def keep_figures(self, key: str) -> None:
        """Remove what is large of a training, if the cell is one."""
        run = self.run(key)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        run.lock_file.unlink(missing_ok=True)

    def _write_subsets(self, planned: list[PreparedCell]) -> None:
        """Of all images there is no list."""
        wanted = {
            (one.cell.dataset, one.cell.shots, one.cell.seed): one.source for one in planned if one.cell.shots != "full"
        }
        for (dataset, shots, seed), source in wanted.items():
            training = source.examples("train")
            chosen = subset(training, source.info.class_names, shots, seed)
            write_list(list_file(self.path / "subsets", dataset, shots, seed), training.take(chosen))


NO_RESULT = {"dataset", "data_dir", *EXECUTION_FIELDS}  # where data lie, and how a training is cut up, change none
SUBSET = {"seed", "examples_per_class"}  # which the cell has, too


class Index:
    def __init__(self, file: Path) -> None:
        self.file = file

    def keys(self, grid: Grid) -> dict[Cell, str | None]:
        """Of every cell; None where it is new, or no longer what it was. Raises RunFolderError."""
        stored = self._read()
        return {cell: stored.get(wording) for cell, wording in _wordings(grid).items()}

    def note(self, grid: Grid, planned: Iterable[PreparedCell]) -> None:
        """Add keys; whoever shares the folder holds a lock."""
        wordings = _wordings(grid)
        known = {**self._read(), **{wordings[one.cell]: one.key for one in planned}}
        with atomic_write(self.file) as partial:
            partial.write_text(json.dumps(known, indent=0), encoding="utf-8")

    def _read(self) -> dict[str, str]:
        if not self.file.exists():
            return {}
        try:
            with os_errors_as(RunFolderError, f"cannot read {self.file}"):
                stored: dict[str, str] = json.loads(self.file.read_bytes())
            return dict(stored)
        except (ValueError, TypeError):
            raise RunFolderError(f"{self.file} is damaged. Remove it: 'hyperrule bench' writes it anew.") from None


def _wordings(grid: Grid) -> dict[Cell, str]:
    """SHA-256 of what is asked for, by cell."""
    alike: dict[tuple[str, str, str], str] = {}  # what all subsets have in common: a recipe takes its time
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
