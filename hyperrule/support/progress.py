"""Progress of long stages on stderr: a live display on a terminal, plain lines elsewhere.

`silent_native_stderr` hides what TensorFlow's C++ code prints on import, before any log level takes effect.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hyperrule.support.wording import printable

LINE_SECONDS = 10.0  # between two lines of a stage
SILENT_SECONDS = 1.0  # at the start of a stage; a shorter stage prints no line

Report = Callable[[int, str], None]


class Reporter:
    """Prints lines and the progress of stages to stderr; nothing if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        self.console.print(printable(line), markup=False)

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Report]:
        """Yield the function `report(done, detail)`. It is cheap enough to call for every step."""
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
            if now - start < SILENT_SECONDS or (done < total and now - last[0] < LINE_SECONDS):
                return
            last[0] = now
            left = (now - start) / max(done - first, 1) * (total - done)
            self.say(f"{name} {done}/{total}  {detail}  {now - start:.0f} s, {left:.0f} s left")

        return report


@contextmanager
def silent_native_stderr() -> Iterator[None]:
    """Discard everything written to file descriptor 2 within the block."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
