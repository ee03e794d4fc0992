"""A grid is measured: grid -> cells -> what is missing in the ledger -> pieces -> processes -> ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from tempfile import TemporaryDirectory

from hyperrule.benchmark.cells import Planned, PlannedGrid, planned_cells
from hyperrule.benchmark.claims import at_work, claim
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.grid import Cell, Grid
from hyperrule.benchmark.handover import write_planned
from hyperrule.benchmark.ledger import Line
from hyperrule.benchmark.local import run_locally
from hyperrule.benchmark.outlook import Outlook, outlook
from hyperrule.benchmark.pieces import Order, Piece
from hyperrule.benchmark.work import failed, is_missing
from hyperrule.errors import UserError
from hyperrule.progress import Reporter
from hyperrule.wording import duration, number

ROUNDS = 2  # a piece whose process dies, or another's that does, is tried once more, when memory may be free again
STOPPED = {128 + SIGINT: SIGINT, 128 + SIGTERM: SIGTERM}  # by somebody who wanted it


@dataclass(frozen=True)
class Bench:
    """What is known of a grid: its folder, its cells, and a line for every finished one, in the grid's order. Of the
    others, another process is at work on those `elsewhere`, and `missing` says by why which are to be done yet."""

    folder: Path
    cells: tuple[Cell, ...]
    lines: tuple[Line, ...]
    elsewhere: tuple[Cell, ...]
    missing: Mapping[str, tuple[Cell, ...]]

    @property
    def failed(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.status == "failed")


def plan_grid(grid: Grid, folder: BenchFolder, retry_failed: bool, reporter: Reporter) -> Outlook:
    """What `run_grid` would do; nothing is written or downloaded. Raises UserError."""
    folder.check()
    found = planned_cells(grid, grid.cells(), reporter, fetch=False)
    return outlook(found, _counting(folder, retry_failed))


def run_grid(grid: Grid, folder: BenchFolder, jobs: int, retry_failed: bool, reporter: Reporter) -> Bench:
    """Measure every cell that the ledger has no line of, `jobs` at a time.

    Cells whose data set or backbone cannot be had are left out, and those that another process is at work on left to
    it. They get no line: the key of a line says which images and weights it is of. Raises UserError, with nothing
    written, if the grid cannot be done as asked or no cell can be measured, and Interrupted at SIGINT or SIGTERM.
    """
    folder.check()
    found = planned_cells(grid, grid.cells(), reporter, jobs=jobs)
    absent = _by_reason(found.absent)
    if not found.planned:
        more = f" And {len(absent) - 1} more like it, which --dry-run tells." if len(absent) > 1 else ""
        raise UserError(f"no cell can be measured. {next(iter(absent))}{more}")
    for reason, cells in absent.items():
        reporter.say(f"{number(len(cells), 'cell')} left out: {reason}")
    folder.prepare(grid, found.planned)
    lines = folder.read()
    again = failed(lines) if retry_failed else {}
    missing = [one for one in found.planned if is_missing(one.key, lines, again)]
    if missing:
        reporter.say(_beginning(found, missing, outlook(found, _counting(folder, retry_failed))))
    round_of = _Rounds(folder, missing, again, reporter)
    with TemporaryDirectory(prefix="hyperrule-bench-") as scratch:
        handed_over = _handed_over(found.planned, missing, Path(scratch))
        for _ in range(ROUNDS):
            orders = [
                Order(piece=piece, planned=handed_over[piece.dataset], jobs=jobs, retry_failed=retry_failed)
                for piece in round_of.pieces()
            ]
            run_locally(folder.path, orders, jobs, round_of.ended)
    return _result(folder, found, round_of.why)


class _Rounds:
    """What is left to do, and how processes ended: `why`, of a piece that was not finished."""

    def __init__(self, folder: BenchFolder, missing: list[Planned], again: Mapping[str, Line], reporter: Reporter):
        self.folder, self.again, self.reporter = folder, again, reporter
        self.why: dict[Piece, str] = {}
        self._died: set[Piece] = set()
        self._stopped: set[Piece] = set()
        self._cells: dict[Piece, list[Planned]] = {}
        for one in missing:
            self._cells.setdefault(Piece.of(one.cell), []).append(one)

    def pieces(self) -> list[Piece]:
        """Those with a cell that nobody is at work on."""
        lines, taken = self.folder.read(), at_work(self.folder.claims)
        return [
            piece
            for piece, cells in self._cells.items()
            if piece not in self._stopped
            and any(one.key not in taken and is_missing(one.key, lines, self.again) for one in cells)
        ]

    def ended(self, piece: Piece, code: int) -> None:
        """Note how the process of a piece ended, and tell it. Cells fail where it died by itself twice."""
        outcome = ""
        if code in STOPPED:
            self._stopped.add(piece)
            outcome = self.why[piece] = f"its process was stopped by {Signals(STOPPED[code]).name}"
        elif code != 0:
            killed = (
                f"its process was killed by signal {code - 128}" if code > 128 else f"its process ended with {code}"
            )
            self.why[piece] = killed
            if piece in self._died:
                self._fail(piece, f"{killed}, twice; see what it said before")
            else:
                self._died.add(piece)
                outcome = f"{killed}; it is tried once more at the end"
        now = self.folder.read()
        left = sum(is_missing(one.key, now, self.again) for cells in self._cells.values() for one in cells)
        self.reporter.say(f"{piece}: {outcome or _outcome(self._cells[piece], now)}; {number(left, 'cell')} left")

    def _fail(self, piece: Piece, reason: str) -> None:
        for one in self._cells[piece]:
            with claim(self.folder.claims, one.key, str(one.cell)) as mine:
                if mine and is_missing(one.key, self.folder.read(), self.again):
                    self.folder.add(one.failed(reason))


def _handed_over(planned: list[Planned], missing: list[Planned], scratch: Path) -> dict[str, Path]:
    """A file for every data set of which cells are missing."""
    datasets = dict.fromkeys(one.cell.dataset for one in missing)
    files = {dataset: scratch / f"{index}.pickle" for index, dataset in enumerate(datasets)}
    for dataset, file in files.items():
        write_planned(file, [one for one in planned if one.cell.dataset == dataset])
    return files


def _counting(folder: BenchFolder, retry_failed: bool) -> dict[str, Line]:
    return {key: line for key, line in folder.read().items() if line.status == "done" or not retry_failed}


def _beginning(found: PlannedGrid, missing: list[Planned], ahead: Outlook) -> str:
    time = "time not known beforehand" if ahead.untimed else f"about {duration(ahead.seconds)}"
    return f"{len(missing)} of {number(len(found.cells), 'cell')} to measure, {time}"


def _outcome(cells: list[Planned], now: Mapping[str, Line]) -> str:
    lines = [now[one.key] for one in cells if one.key in now]
    if not lines:
        return "another process is at work on it"
    bad = [line for line in lines if line.status == "failed"]
    if bad:
        return f"{len(bad)} of {number(len(lines), 'cell')} failed: {bad[0].error}"
    if len(lines) == 1:
        return f"{lines[0].top1:.2%} in {duration(lines[0].seconds)}"
    return f"{number(len(lines), 'cell')} done"


def _result(folder: BenchFolder, found: PlannedGrid, why: Mapping[Piece, str]) -> Bench:
    lines = folder.read()
    missing = [one.cell for one in found.planned if one.key not in lines]
    unfinished = {cell: why[Piece.of(cell)] for cell in missing if Piece.of(cell) in why}
    return Bench(
        folder=folder.path,
        cells=tuple(found.cells),
        lines=tuple(lines[one.key] for one in found.planned if one.key in lines),
        elsewhere=tuple(cell for cell in missing if cell not in unfinished),
        missing=_by_reason({**unfinished, **found.absent}),
    )


def _by_reason(reasons: Mapping[Cell, str]) -> dict[str, tuple[Cell, ...]]:
    found: dict[str, tuple[Cell, ...]] = {}
    for cell, reason in reasons.items():
        found[reason] = (*found.get(reason, ()), cell)
    return found
