"""keys.json: the key that every cell had when its data set and backbone were last opened, by what the grid says of the
cell, so that nothing has to be opened to tell what is done."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from hyperrule.benchmark.cells import Planned
from hyperrule.benchmark.grid import Cell, Grid, ProbeMethod
from hyperrule.errors import RunFolderError
from hyperrule.planning.execution import versions_here
from hyperrule.planning.training_plan import HOW
from hyperrule.support.files import os_errors_as, whole_file

NO_RESULT = {"dataset", "data_dir", *HOW}  # where data lie, and how a training is cut up, change none
SUBSET = {"seed", "examples_per_class"}  # which the cell has, too


class Index:
    def __init__(self, file: Path) -> None:
        self.file = file

    def keys(self, grid: Grid) -> dict[Cell, str | None]:
        """Of every cell; None where it is new, or no longer what it was. Raises RunFolderError."""
        stored = self._read()
        return {cell: stored.get(wording) for cell, wording in _wordings(grid).items()}

    def note(self, grid: Grid, planned: Iterable[Planned]) -> None:
        """Add keys; whoever shares the folder holds a lock."""
        wordings = _wordings(grid)
        known = {**self._read(), **{wordings[one.cell]: one.key for one in planned}}
        with whole_file(self.file) as partial:
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
    wordings, versions = {}, versions_here()
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
