"""Planned cells from the process that has read the data to those that work on them, which so need not read it again."""

import copyreg
import pickle
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hyperrule.benchmark.cells import Planned
from hyperrule.planning.plan import Plan
from hyperrule.progress import Reporter


class _Pickler(pickle.Pickler):
    """A console belongs to its process, and pydantic's generic classes go by JSON only."""

    dispatch_table = copyreg.dispatch_table | {
        Console: lambda console: (_console, (console.quiet,)),
        Plan: lambda plan: (Plan.model_validate_json, (plan.model_dump_json(),)),
    }


def write_planned(file: Path, planned: Sequence[Planned]) -> None:
    """Cells of one data set, whose images are inspected."""
    with file.open("wb") as stream:
        _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(list(planned))


def read_planned(file: Path) -> list[Planned]:
    """What this program has written; a pickle of anybody else's can do anything."""
    with file.open("rb") as stream:
        planned: list[Planned] = pickle.load(stream)
    return planned


def _console(quiet: bool) -> Console:
    return Reporter(quiet).console
