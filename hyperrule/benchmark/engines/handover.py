"""Planned cells from the process that has read the data to those that work on them, which so need not read it again."""

import copyreg
import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console

from hyperrule.benchmark.cells import PreparedCell
from hyperrule.benchmark.ledger import claim
from hyperrule.planning.finetune import Plan
from hyperrule.support.files import file_lock
from hyperrule.support.progress import Reporter

LOCK = "lock"  # held as long as the command lives


class _Pickler(pickle.Pickler):
    """A console belongs to its process, and pydantic's generic classes go by JSON only."""

    dispatch_table = copyreg.dispatch_table | {
        Console: lambda console: (_console, (console.quiet,)),
        Plan: lambda plan: (Plan.model_validate_json, (plan.model_dump_json(),)),
    }


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder in it for the block, for the files of one command; those of commands that were killed go."""
    with ExitStack() as held:
        with file_lock(folder / ".lock"):
            for other in folder.glob(".planned-*"):
                with claim(other, LOCK, "") as left_behind:
                    if left_behind:
                        shutil.rmtree(other, ignore_errors=True)
            scratch = Path(mkdtemp(prefix=".planned-", dir=folder))
            held.callback(shutil.rmtree, scratch, ignore_errors=True)
            held.enter_context(claim(scratch, LOCK, ""))
        yield scratch


def write_planned(file: Path, planned: Sequence[PreparedCell]) -> None:
    """Cells of one data set, whose images are inspected."""
    with file.open("wb") as stream:
        _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(list(planned))


def read_planned(file: Path) -> list[PreparedCell]:
    """What this program has written; a pickle of anybody else's can do anything."""
    with file.open("rb") as stream:
        planned: list[PreparedCell] = pickle.load(stream)
    return planned


def _console(quiet: bool) -> Console:
    return Reporter(quiet).console
