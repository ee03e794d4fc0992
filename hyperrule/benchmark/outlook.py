"""Estimates what a benchmark would do, and reports how much of it is done."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hyperrule.benchmark.cells import PlannedGrid, PreparedCell
from hyperrule.benchmark.engines.probing import images_needed
from hyperrule.benchmark.engines.tasks import Task
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.grid import Cell, Grid
from hyperrule.benchmark.ledger import Line, at_work
from hyperrule.planning.cost import estimate_inference

Likeness = tuple[str, str, str, int | str]  # data set, backbone, method, shots: cells that take about as long


class PlannedCell(BaseModel):
    """A cell and its state. A cell is "absent" if its data set or backbone is not on this machine.

    `key` depends on both, so an absent cell has none. `seconds` are measured for a finished cell, else estimated; None
    if there is no estimate.
    """

    model_config = ConfigDict(frozen=True)

    key: str | None
    cell: Cell
    state: Literal["done", "failed", "missing", "absent"]
    seconds: float | None


class Outlook(BaseModel):
    """The cells of a grid in the order of execution, and the time that the unfinished ones will take.

    `seconds` are for one process after another, without `untimed` cells; they include `features_seconds`, the time to
    extract features for probes. `measured` says whether some estimates come from similar finished cells. `absent` has
    a reason for every data set and backbone that is not on this machine.
    """

    model_config = ConfigDict(frozen=True)

    cells: tuple[PlannedCell, ...]
    seconds: float
    features_seconds: float
    untimed: int
    measured: bool
    absent: tuple[str, ...]


class Status(BaseModel):
    """Numbers of cells. `at_work` describes the cells that are being measured, with the current step of a training.

    Not in JSON: `grid`, all cells, and `lines`, those of finished cells.
    """

    model_config = ConfigDict(frozen=True)

    cells: int
    done: int
    failed: int
    missing: int
    at_work: tuple[str, ...]
    errors: tuple[str, ...]
    grid: tuple[Cell, ...] = Field(exclude=True)
    lines: tuple[Line, ...] = Field(exclude=True)


def outlook(found: PlannedGrid, lines: Mapping[str, Line]) -> Outlook:
    """Estimate the time of each cell from similar finished cells, or else from operation counts."""
    took = _took(lines.values())
    planned = {one.cell: one for one in found.planned}
    cells = [_planned_cell(cell, planned.get(cell), lines, took) for cell in found.cells]
    left = [one for one in cells if one.state in ("missing", "absent")]
    features = _features_seconds(found.planned, [one.cell for one in left if one.cell in planned])
    known = [one.seconds for one in left if one.seconds is not None]
    extracted = sum(seconds for seconds in features.values() if seconds is not None)
    return Outlook(
        cells=tuple(cells),
        seconds=sum(known) + extracted,
        features_seconds=extracted,
        untimed=sum(one.seconds is None or features.get(Task.of(one.cell), 0.0) is None for one in left),
        measured=any(_likeness(one.cell) in took for one in left),
        absent=tuple(dict.fromkeys([*found.absent.values(), *found.to_fetch])),
    )


def status(folder: BenchFolder, grid: Grid) -> Status:
    """Return the status from the folder and the grid alone, without opening data or weights.

    Data and weights are assumed unchanged since a process last opened them. A cell counts only if the grid describes it
    as it did then.
    """
    ledger, keys = folder.read(), folder.index.keys(grid)
    lines = [ledger[key] for key in keys.values() if key in ledger]
    failed = [line for line in lines if line.status == "failed"]
    return Status(
        cells=len(keys),
        done=len(lines) - len(failed),
        failed=len(failed),
        missing=len(keys) - len(lines),
        at_work=tuple(what + _progress(folder, key) for key, what in at_work(folder.claims).items()),
        errors=tuple(f"{line.dataset}, {line.backbone}, {line.method}: {line.error}" for line in failed),
        grid=tuple(keys),
        lines=tuple(lines),
    )


def _progress(folder: BenchFolder, key: str) -> str:
    steps = [line["step"] for line in folder.run(key).read_metrics()]
    return f", step {steps[-1]}" if steps else ""


def _planned_cell(
    cell: Cell, planned: PreparedCell | None, lines: Mapping[str, Line], took: Mapping[Likeness, float]
) -> PlannedCell:
    key = planned.key if planned and planned.is_here else None
    if line := lines.get(key or ""):
        return PlannedCell(key=key, cell=cell, state=line.status, seconds=line.seconds)
    seconds = took.get(_likeness(cell), planned.estimated_seconds if planned else None)
    return PlannedCell(key=key, cell=cell, state="missing" if key else "absent", seconds=seconds)


def _took(lines: Iterable[Line]) -> dict[Likeness, float]:
    """Return the median seconds of finished cells, by likeness."""
    seconds: dict[Likeness, list[float]] = {}
    for line in lines:
        if line.status == "done":
            seconds.setdefault(_likeness(line), []).append(line.seconds)
    return {likeness: statistics.median(values) for likeness, values in seconds.items()}


def _likeness(cell: Cell | Line) -> Likeness:
    return cell.dataset, cell.backbone, cell.method, cell.shots


def _features_seconds(planned: list[PreparedCell], left: list[Cell]) -> dict[Task, float | None]:
    """Return the seconds to extract the features for probes, by task, for each task with unfinished probes."""
    wanted = dict.fromkeys(Task.of(cell) for cell in left if cell.method == "probe")
    seconds = {}
    for task in wanted:
        cells = [one for one in planned if Task.of(one.cell) == task]
        plan, images = cells[0].plan, images_needed(cells)
        seconds[task] = estimate_inference(plan.backbone, plan.evaluation_size.value, images, plan.machine)
    return seconds
