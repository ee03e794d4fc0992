"""A grid is measured: grid -> cells -> what is missing in the ledger -> pieces -> processes -> ledger."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hyperrule.benchmark.cells import Planned, planned_cells
from hyperrule.benchmark.claims import claim
from hyperrule.benchmark.engines import Engine
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.grid import Cell, Grid
from hyperrule.benchmark.handover import write_planned
from hyperrule.benchmark.ledger import Line
from hyperrule.benchmark.local import run_locally
from hyperrule.benchmark.outlook import Outlook, outlook
from hyperrule.benchmark.pieces import Order, Piece, pieces_of
from hyperrule.benchmark.work import failed, is_missing
from hyperrule.progress import Reporter
from hyperrule.wording import duration, number


@dataclass(frozen=True)
class Bench:
    """What is known of a grid: its folder, a line for every finished cell, in the grid's order, and the cells that
    have none, because another process is at work on them."""

    folder: Path
    cells: tuple[Cell, ...]
    lines: tuple[Line, ...]
    missing: tuple[Cell, ...]

    @property
    def failed(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.status == "failed")


def plan_grid(grid: Grid, folder: BenchFolder, retry_failed: bool, reporter: Reporter) -> Outlook:
    """What `run_grid` would do; nothing is written or downloaded. Raises UserError."""
    planned = planned_cells(grid, grid.cells(), reporter, fetch=False)
    return outlook(planned, _counting(folder, retry_failed))


def run_grid(
    grid: Grid,
    folder: BenchFolder,
    jobs: int,
    retry_failed: bool,
    reporter: Reporter,
    run: Engine = run_locally,
) -> Bench:
    """Measure every cell that the ledger has no line of, `jobs` at a time on a machine.

    Cells that another process is at work on are left to it. Raises UserError, with nothing written, if the grid cannot
    be done as asked, and Interrupted at SIGINT or SIGTERM.
    """
    planned = planned_cells(grid, grid.cells(), reporter, jobs=jobs)
    folder.prepare(grid, planned)
    lines, again = folder.read(), failed(folder.read()) if retry_failed else {}
    missing = [one for one in planned if is_missing(one.key, lines, again)]
    if missing:
        reporter.say(_beginning(planned, missing, outlook(planned, _counting(folder, retry_failed))))

    def ended(piece: Piece, code: int) -> None:
        _record_crash(folder, [one for one in missing if Piece.of(one.cell) == piece], again, code)
        now = folder.read()
        left = sum(is_missing(one.key, now, again) for one in planned)
        reporter.say(f"{piece}: {_outcome(missing, piece, now)}; {number(left, 'cell')} left")

    with TemporaryDirectory(prefix=".planned-", dir=folder.path) as scratch:  # where all that work on it see it
        handed_over = _handed_over(planned, missing, Path(scratch))
        orders = [
            Order(piece=piece, planned=handed_over[piece.dataset], jobs=jobs, retry_failed=retry_failed)
            for piece in pieces_of(one.cell for one in missing)
        ]
        run(folder.path, orders, jobs, ended)
    return _result(folder, planned)


def _handed_over(planned: list[Planned], missing: list[Planned], scratch: Path) -> dict[str, Path]:
    """A file for every data set of which cells are missing."""
    datasets = dict.fromkeys(one.cell.dataset for one in missing)
    files = {dataset: scratch / f"{index}.pickle" for index, dataset in enumerate(datasets)}
    for dataset, file in files.items():
        write_planned(file, [one for one in planned if one.cell.dataset == dataset])
    return files


def _counting(folder: BenchFolder, retry_failed: bool) -> dict[str, Line]:
    return {key: line for key, line in folder.read().items() if line.status == "done" or not retry_failed}


def _beginning(planned: list[Planned], missing: list[Planned], ahead: Outlook) -> str:
    time = "time not known beforehand" if ahead.seconds is None else f"about {duration(ahead.seconds)}"
    return f"{len(missing)} of {number(len(planned), 'cell')} to measure, {time}"


def _record_crash(folder: BenchFolder, planned: list[Planned], again: dict[str, Line], code: int) -> None:
    """What a process that was killed, or could not begin, did not record by itself."""
    if code == 0:
        return
    reason = f"its process was killed by signal {code - 128}" if code > 128 else f"its process ended with {code}"
    for one in planned:
        with claim(folder.claims, one.key, str(one.cell)) as mine:
            if mine and is_missing(one.key, folder.read(), again):
                folder.add(one.failed(f"{reason}; see what it said before"))


def _outcome(missing: list[Planned], piece: Piece, now: dict[str, Line]) -> str:
    lines = [now[one.key] for one in missing if Piece.of(one.cell) == piece and one.key in now]
    if not lines:
        return "another process is at work on it"
    bad = [line for line in lines if line.status == "failed"]
    if bad:
        return f"{len(bad)} of {number(len(lines), 'cell')} failed: {bad[0].error}"
    if len(lines) == 1:
        return f"{lines[0].top1:.2%} in {duration(lines[0].seconds)}"
    return f"{number(len(lines), 'cell')} done"


def _result(folder: BenchFolder, planned: list[Planned]) -> Bench:
    lines = folder.read()
    return Bench(
        folder.path,
        tuple(one.cell for one in planned),
        tuple(lines[one.key] for one in planned if one.key in lines),
        tuple(one.cell for one in planned if one.key not in lines),
    )
