"""Measures a grid: grid -> cells -> cells missing in the ledger -> tasks -> processes -> ledger.

Processes on this machine or on a Ray cluster execute the tasks: every task once, then those whose process died once
more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

from hyperrule.benchmark.cells import PlannedGrid, PreparedCell, planned_cells
from hyperrule.benchmark.engines.handover import scratch_folder, write_planned
from hyperrule.benchmark.engines.local import run_locally
from hyperrule.benchmark.engines.tasks import Assignment, Task
from hyperrule.benchmark.engines.work import failed, is_missing
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.grid import Cell, Grid
from hyperrule.benchmark.ledger import Line, at_work, claim
from hyperrule.benchmark.outlook import Outlook, outlook
from hyperrule.errors import RecipeError, UserError
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import duration, number

ENGINES = ("local", "ray")
KILLED = 128  # plus the number of the signal: the exit code of a process that a signal ended
STOPPED = (KILLED + SIGINT, KILLED + SIGTERM)  # stopped on purpose, which is no failure
Engine = Callable[[Path, Sequence[Assignment], int, Callable[[Task, int], None]], None]


@contextmanager
def started(name: str, address: str | None) -> Iterator[Engine]:
    """Within the block, provide the engine `name`; Ray's cluster is at `address`, or else starts on this machine.

    Raises UserError if the engine does not exist or cannot be started.
    """
    if name not in ENGINES:
        raise RecipeError(f"engine must be {' or '.join(ENGINES)}. Received: {name!r}")
    if name == "local":
        if address is not None:
            raise RecipeError(f"--address is that of a Ray cluster: set --engine ray, too. Received: {address!r}")
        yield run_locally
        return
    from hyperrule.benchmark.engines.ray import connected, run_on_ray

    with connected(address):
        yield run_on_ray


@dataclass(frozen=True)
class Bench:
    """The result of a grid: its folder, its cells, and a line for every finished cell, in the grid's order.

    `elsewhere` are cells that another process is measuring. `missing` has the other unfinished cells, by reason.
    """

    folder: Path
    cells: tuple[Cell, ...]
    lines: tuple[Line, ...]
    elsewhere: tuple[Cell, ...]
    missing: Mapping[str, tuple[Cell, ...]]

    @property
    def failed(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.status == "failed")


def plan_grid(grid: Grid, folder: BenchFolder, retry_failed: bool, reporter: Reporter) -> Outlook:
    """Return what `run_grid` would do, without writing or downloading anything. Raises UserError as it does."""
    folder.check()
    found = planned_cells(grid, grid.cells(), reporter, fetch=False)
    return outlook(found, _counting(folder, retry_failed))


def run_grid(grid: Grid, folder: BenchFolder, run: Engine, jobs: int, retry_failed: bool, reporter: Reporter) -> Bench:
    """Measure every cell without a line in the ledger, `jobs` at a time on each machine.

    Cells whose data set or backbone is not available are left out, as are cells that another process is measuring.
    They get no line, because a line's key depends on the images and weights. Raises UserError, with nothing written, if
    the grid is invalid or no cell can be measured, and Interrupted at SIGINT or SIGTERM.
    """
    folder.check()
    found = planned_cells(grid, grid.cells(), reporter, jobs=jobs)
    absent = _by_reason(found.absent)
    if not found.planned:
        more = f" --dry-run lists {len(absent) - 1} more such reasons." if len(absent) > 1 else ""
        raise UserError(f"no cell can be measured. {next(iter(absent))}{more}")
    for reason, cells in absent.items():
        reporter.say(f"{number(len(cells), 'cell')} left out: {reason}")
    for dataset, source in {one.cell.dataset: one.source for one in found.planned}.items():
        for warning in source.info.warnings:
            reporter.say(f"Warning: {dataset}: {warning}.")
    folder.prepare(grid, found.planned)
    lines = folder.read()
    again = failed(lines) if retry_failed else {}
    missing = [one for one in found.planned if is_missing(one.key, lines, again)]
    if missing:
        here = replace(found, cells=[one.cell for one in found.planned])
        reporter.say(_beginning(found, missing, outlook(here, _counting(folder, retry_failed)), jobs))
    rounds = Rounds(folder, missing, again, reporter)
    with scratch_folder(folder.path) as scratch:  # in the bench folder, which all machines see
        handed_over = _handed_over(found.planned, missing, scratch)
        for tasks in (rounds.first, rounds.second):
            assignments = [
                Assignment(task=task, planned=handed_over[task.dataset], jobs=jobs, retry_failed=retry_failed)
                for task in tasks()
            ]
            if assignments:
                run(folder.path, assignments, jobs, rounds.ended)
    return _result(folder, found, rounds.unfinished)


def _handed_over(planned: list[PreparedCell], missing: list[PreparedCell], scratch: Path) -> dict[str, Path]:
    """Write a file for every data set with missing cells, with its arrays beside it. Return the files by data set."""
    datasets = dict.fromkeys(one.cell.dataset for one in missing)
    files = {dataset: scratch / f"{index}.json" for index, dataset in enumerate(datasets)}
    for dataset, file in files.items():
        write_planned(file, [one for one in planned if one.cell.dataset == dataset])
    return files


def _counting(folder: BenchFolder, retry_failed: bool) -> dict[str, Line]:
    return {key: line for key, line in folder.read().items() if line.status == "done" or not retry_failed}


def _beginning(found: PlannedGrid, missing: list[PreparedCell], ahead: Outlook, jobs: int) -> str:
    # The gain from several processes on one machine cannot be estimated.
    turns = " if done one after another" if jobs > 1 else ""
    time = "time not known in advance" if ahead.untimed else f"about {duration(ahead.seconds)}{turns}"
    return f"{len(missing)} of {number(len(found.cells), 'cell')} to measure, {time}"


def _result(folder: BenchFolder, found: PlannedGrid, unfinished: Mapping[Task, str]) -> Bench:
    lines = folder.read()
    missing = {one.cell: unfinished.get(Task.of(one.cell)) for one in found.planned if one.key not in lines}
    known = {cell: why for cell, why in missing.items() if why is not None}
    return Bench(
        folder=folder.path,
        cells=tuple(found.cells),
        lines=tuple(lines[one.key] for one in found.planned if one.key in lines),
        elsewhere=tuple(cell for cell, why in missing.items() if why is None),
        missing=_by_reason({**known, **found.absent}),
    )


def _by_reason(reasons: Mapping[Cell, str]) -> dict[str, tuple[Cell, ...]]:
    found: dict[str, tuple[Cell, ...]] = {}
    for cell, reason in reasons.items():
        found[reason] = (*found.get(reason, ()), cell)
    return found


class Rounds:
    """Two rounds over the tasks of `missing` cells. `unfinished` has the reason for every task that did not finish.

    `again` has the lines of failed cells that are measured once more.
    """

    def __init__(
        self, folder: BenchFolder, missing: Sequence[PreparedCell], again: Mapping[str, Line], reporter: Reporter
    ) -> None:
        self.unfinished: dict[Task, str] = {}
        self._folder, self._again, self._reporter = folder, again, reporter
        self._died: set[Task] = set()
        self._stopped: set[Task] = set()
        self._cells: dict[Task, list[PreparedCell]] = {}
        for one in missing:
            self._cells.setdefault(Task.of(one.cell), []).append(one)

    def first(self) -> list[Task]:
        return list(self._cells)

    def second(self) -> list[Task]:
        """Return tasks with a cell that is still missing and in no other process, unless the task was stopped."""
        now, taken = self._folder.read(), at_work(self._folder.claims)
        return [
            task
            for task, cells in self._cells.items()
            if task not in self._stopped and any(one.key not in taken for one in self._missing(cells, now))
        ]

    def ended(self, task: Task, code: int) -> None:
        """Record and report how the process of a task ended. If it died for the second time, its cells fail."""
        if code in STOPPED:
            self._stopped.add(task)
            what = self.unfinished[task] = f"its process was stopped by {Signals(code - KILLED).name}"
        elif code == 0:
            self.unfinished.pop(task, None)
            what = _outcome(self._cells[task], self._folder.read())
        else:
            how = f"was killed by signal {code - KILLED}" if code > KILLED else f"ended with {code}"
            what = self.unfinished[task] = f"its process {how}"
            if task in self._died:
                do = "use fewer --jobs, if memory is short" if code == KILLED + SIGKILL else "see its output above"
                self._fail(task, f"{what}, twice: {do}, then --retry-failed")
            else:
                what += "; it is tried once more at the end"
            self._died.add(task)
        now = self._folder.read()
        left = sum(len(self._missing(cells, now)) for cells in self._cells.values())
        self._reporter.say(f"{task}: {what}; {number(left, 'cell')} left")

    def _missing(self, cells: Sequence[PreparedCell], now: Mapping[str, Line]) -> list[PreparedCell]:
        return [one for one in cells if is_missing(one.key, now, self._again)]

    def _fail(self, task: Task, error: str) -> None:
        for one in self._missing(self._cells[task], self._folder.read()):
            with claim(self._folder.claims, one.key, str(one.cell)) as mine:
                if mine and self._missing([one], self._folder.read()):
                    self._folder.add(one.failed(error))


def _outcome(cells: list[PreparedCell], now: Mapping[str, Line]) -> str:
    lines = [now[one.key] for one in cells if one.key in now]
    if not lines:
        return "another process is measuring it"
    bad = [line for line in lines if line.status == "failed"]
    if bad:
        return f"{len(bad)} of {number(len(lines), 'cell')} failed: {bad[0].error}"
    if len(lines) == 1:
        return f"{lines[0].top1:.2%} in {duration(lines[0].seconds)}"
    return f"{number(len(lines), 'cell')} done"
