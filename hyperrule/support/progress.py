"""Progress of long stages on stderr: a live display on a terminal, plain lines elsewhere.

TensorFlow's C++ side greets on stderr while it is imported, before any log level counts.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hyperrule.support.wording import printable

PLAIN_SECONDS = 10.0  # between two lines of a stage
WORTH_A_LINE = 1.0  # what ends sooner is not told

Report = Callable[[int, str], None]


class Reporter:
    """`quiet` shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        self.console.print(printable(line), markup=False)

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Report]:
        """Yields `report(done, detail)`, cheap enough to be called for every step."""
        if self.console.is_terminal:
            yield from self._live(name, total, done)
        else:
            yield self._plain(name, total, done)

    def _live(self, name: str, total: int, done: int) -> Iterator[Report]:
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, refresh_per_second=4) as display:
            task = display.add_task(name, total=total, completed=done, detail="")

            def report(done: int, detail: str) -> None:
                display.update(task, completed=done, detail=detail)

            yield report

    def _plain(self, name: str, total: int, first: int) -> Report:
        start = time.monotonic()
        last = [start]

        def report(done: int, detail: str) -> None:
            now = time.monotonic()
            if now - start < WORTH_A_LINE or (done < total and now - last[0] < PLAIN_SECONDS):
                return
            last[0] = now
            left = (now - start) / max(done - first, 1) * (total - done)
            self.say(f"{name} {done}/{total}  {detail}  {now - start:.0f} s, {left:.0f} s left")

        return report


@contextmanager
def silent_native_stderr() -> Iterator[None]:
    """Within the block nothing reaches file descriptor 2."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
