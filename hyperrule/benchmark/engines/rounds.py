"""What is left to do of a grid: every piece once, and then those whose process died, here or elsewhere, once more."""

from collections.abc import Mapping, Sequence
from signal import SIGINT, SIGKILL, SIGTERM, Signals

from hyperrule.benchmark.cells import Planned
from hyperrule.benchmark.engines.pieces import Piece
from hyperrule.benchmark.engines.work import is_missing
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.ledger import Line, at_work, claim
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import duration, number

KILLED = 128  # and the signal: the exit code of a process that a signal ended
STOPPED = (KILLED + SIGINT, KILLED + SIGTERM)  # by somebody who wanted it: no failure


class Rounds:
    """Of cells that are `missing`, some of which are measured `again`. `unfinished` says why of pieces that are."""

    def __init__(
        self, folder: BenchFolder, missing: Sequence[Planned], again: Mapping[str, Line], reporter: Reporter
    ) -> None:
        self.unfinished: dict[Piece, str] = {}
        self._folder, self._again, self._reporter = folder, again, reporter
        self._died: set[Piece] = set()
        self._stopped: set[Piece] = set()
        self._cells: dict[Piece, list[Planned]] = {}
        for one in missing:
            self._cells.setdefault(Piece.of(one.cell), []).append(one)

    def first(self) -> list[Piece]:
        return list(self._cells)

    def second(self) -> list[Piece]:
        """Those with a cell that is missing still, that nobody is at work on, and that nobody has stopped."""
        now, taken = self._folder.read(), at_work(self._folder.claims)
        return [
            piece
            for piece, cells in self._cells.items()
            if piece not in self._stopped and any(one.key not in taken for one in self._missing(cells, now))
        ]

    def ended(self, piece: Piece, code: int) -> None:
        """Note and tell how the process of a piece ended. If it died by itself for the second time, its cells fail."""
        if code in STOPPED:
            self._stopped.add(piece)
            what = self.unfinished[piece] = f"its process was stopped by {Signals(code - KILLED).name}"
        elif code == 0:
            self.unfinished.pop(piece, None)
            what = _outcome(self._cells[piece], self._folder.read())
        else:
            how = f"was killed by signal {code - KILLED}" if code > KILLED else f"ended with {code}"
            what = self.unfinished[piece] = f"its process {how}"
            if piece in self._died:
                do = "give fewer --jobs more memory" if code == KILLED + SIGKILL else "see what it said before"
                self._fail(piece, f"{what}, twice: {do}, then --retry-failed")
            else:
                what += "; it is tried once more at the end"
            self._died.add(piece)
        now = self._folder.read()
        left = sum(len(self._missing(cells, now)) for cells in self._cells.values())
        self._reporter.say(f"{piece}: {what}; {number(left, 'cell')} left")

    def _missing(self, cells: Sequence[Planned], now: Mapping[str, Line]) -> list[Planned]:
        return [one for one in cells if is_missing(one.key, now, self._again)]

    def _fail(self, piece: Piece, error: str) -> None:
        for one in self._missing(self._cells[piece], self._folder.read()):
            with claim(self._folder.claims, one.key, str(one.cell)) as mine:
                if mine and self._missing([one], self._folder.read()):
                    self._folder.add(one.failed(error))


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
