"""What a benchmark would do, and what is done of it."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hyperrule.benchmark.cells import Planned
from hyperrule.benchmark.claims import at_work
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.grid import Cell, Grid
from hyperrule.benchmark.ledger import Line
from hyperrule.benchmark.pieces import Piece
from hyperrule.benchmark.probing import images_needed
from hyperrule.planning.estimate import estimate_inference

Likeness = tuple[str, str, str, int | str]


class PlannedCell(BaseModel):
    """`seconds` are what it will take, None where nobody can tell; of a cell that is done, what it took."""

    model_config = ConfigDict(frozen=True)

    key: str
    cell: Cell
    state: Literal["done", "failed", "missing"]
    seconds: float | None


class Outlook(BaseModel):
    """The cells of a grid in the order in which they are done, and how long what is missing will take: in seconds, of
    one process after another, None where nobody can tell. Features of probes count, if they have to be extracted."""

    model_config = ConfigDict(frozen=True)

    cells: tuple[PlannedCell, ...]
    seconds: float | None
    features_seconds: float | None
    measured: bool


class Status(BaseModel):
    """Numbers of cells; `at_work` is what processes are at work on now, with the steps that are done of a training."""

    model_config = ConfigDict(frozen=True)

    cells: int
    done: int
    failed: int
    missing: int
    at_work: tuple[str, ...]
    errors: tuple[str, ...]


def outlook(planned: list[Planned], lines: Mapping[str, Line]) -> Outlook:
    """Times of cells are those of cells like them that are done, or else estimated from operations."""
    took = _took(lines.values())
    cells = [_planned_cell(one, lines.get(one.key), took) for one in planned]
    missing = [one for one, cell in zip(planned, cells, strict=True) if cell.state == "missing"]
    features = _features_seconds(planned, missing)
    parts = [features, *(cell.seconds for cell in cells if cell.state == "missing")]
    return Outlook(
        cells=tuple(cells),
        seconds=None if None in parts else sum(part for part in parts if part is not None),
        features_seconds=features,
        measured=any(_likeness(one.cell) in took for one in missing),
    )


def status(folder: BenchFolder, grid: Grid) -> Status:
    """From the grid and the ledger alone, at once: whether data or weights are still what they were is not asked."""
    lines = list(folder.read().values())
    by_cell = {(*_likeness(line), line.seed): line for line in lines}
    separate = {(*_likeness(line), line.seed, line.l2): line for line in lines}
    found = [
        by_cell.get((*_likeness(cell), cell.seed))
        if cell.l2 is None
        else separate.get((*_likeness(cell), cell.seed, cell.l2))
        for cell in grid.cells()
    ]
    failed = [line for line in found if line is not None and line.status == "failed"]
    return Status(
        cells=len(found),
        done=sum(line is not None and line.status == "done" for line in found),
        failed=len(failed),
        missing=sum(line is None for line in found),
        at_work=tuple(what + _progress(folder, key) for key, what in at_work(folder.claims).items()),
        errors=tuple(f"{line.dataset}, {line.backbone}, {line.method}: {line.error}" for line in failed),
    )


def _progress(folder: BenchFolder, key: str) -> str:
    steps = [line["step"] for line in folder.run(key).read_metrics()]
    return f", step {steps[-1]}" if steps else ""


def _planned_cell(planned: Planned, line: Line | None, took: Mapping[Likeness, float]) -> PlannedCell:
    if line is not None:
        return PlannedCell(key=planned.key, cell=planned.cell, state=line.status, seconds=line.seconds)
    seconds = took.get(_likeness(planned.cell), planned.estimated_seconds)
    return PlannedCell(key=planned.key, cell=planned.cell, state="missing", seconds=seconds)


def _took(lines: Iterable[Line]) -> dict[Likeness, float]:
    """Median seconds of cells that are done."""
    seconds: dict[Likeness, list[float]] = {}
    for line in lines:
        if line.status == "done":
            seconds.setdefault(_likeness(line), []).append(line.seconds)
    return {likeness: statistics.median(values) for likeness, values in seconds.items()}


def _likeness(cell: Cell | Line) -> Likeness:
    return cell.dataset, cell.backbone, cell.method, cell.shots


def _features_seconds(planned: list[Planned], missing: list[Planned]) -> float | None:
    """Of a forward pass over all images that probes need, once for each piece in which one is missing."""
    wanted = {Piece.of(one.cell) for one in missing if one.cell.method == "probe"}
    total = 0.0
    for piece in wanted:
        cells = [one for one in planned if Piece.of(one.cell) == piece]
        plan = cells[0].plan
        images = images_needed(cells)
        seconds = estimate_inference(plan.backbone, plan.evaluation_size.value, images, plan.machine)
        if seconds is None:
            return None
        total += seconds
    return total
