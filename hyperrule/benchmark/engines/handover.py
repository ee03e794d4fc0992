"""Planned cells from the process that has read the data to those that work on them, which so need not read it again.

Of a data set, two files: NAME.json has the cells and their plans, NAME.npz what was found of every image. The data set
itself is opened anew by each process: that lists its images, and looks into none.
"""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from pydantic import BaseModel, ConfigDict

from hyperrule.benchmark.cells import PreparedCell
from hyperrule.benchmark.grid import Cell
from hyperrule.benchmark.ledger import claim
from hyperrule.data.inspection import Facts
from hyperrule.data.open import source_of
from hyperrule.errors import DataError, RunError, RunFolderError
from hyperrule.planning.finetune_plan import Plan
from hyperrule.support.files import file_lock, os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import one_line

LOCK = "lock"  # held as long as the command lives


class _Planned(BaseModel):
    model_config = ConfigDict(frozen=True)

    cell: Cell
    plan: Plan
    l2: tuple[float, ...]


class _HandedOver(BaseModel):
    """`listing` is the SHA-256 of the listing that the facts are of, `problems` are by number of image."""

    model_config = ConfigDict(frozen=True)

    listing: str
    problems: dict[int, str]
    cells: tuple[_Planned, ...]


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
    """Cells of one data set, whose images are inspected; the arrays go beside `file`. Raises RunError."""
    source = planned[0].source
    cells = tuple(_Planned(cell=one.cell, plan=one.plan, l2=one.l2) for one in planned)
    handed_over = _HandedOver(listing=source.listing_sha256(), problems=source.problems, cells=cells)
    with os_errors_as(RunError, f"cannot write {file}"):
        np.savez(file.with_suffix(".npz"), facts=source.facts)
        file.write_text(handed_over.model_dump_json(), encoding="utf-8")


def read_planned(file: Path) -> list[PreparedCell]:
    """The cells in `file`, with their data set, of which no image is inspected again.

    Nothing in the files can run code. Raises DataError if the data set is no longer there or has changed,
    RunFolderError if the files are damaged.
    """
    handed_over, facts = _read(file)
    recipe = handed_over.cells[0].plan.recipe
    with os_errors_as(DataError, f"cannot read {recipe.dataset}"):
        source = source_of(recipe, Reporter(quiet=True), fetch=False)
    if source.listing_sha256() != handed_over.listing:
        raise DataError(f"{recipe.dataset} has other images than when the grid was planned. Give the command again.")
    known = replace(source, known=(facts, handed_over.problems))
    return [PreparedCell(one.cell, one.plan, known, one.l2) for one in handed_over.cells]


def _read(file: Path) -> tuple[_HandedOver, Facts]:
    try:
        handed_over = _HandedOver.model_validate_json(file.read_bytes())
        with np.load(file.with_suffix(".npz"), allow_pickle=False) as arrays:
            return handed_over, arrays["facts"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{file} is damaged: {one_line(error)}") from None
