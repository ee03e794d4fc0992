"""Handling of SIGINT and SIGTERM, which ask a run to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hyperrule.errors import Interrupted
from hyperrule.run_folder import RunFolder


class _Signal(BaseException):
    """Carries a signal out of any code. Not an Exception: Keras would wrap that in its own."""

    def __init__(self, number: int) -> None:
        self.number = number


class StopRequest:
    """`received` is the number of the signal that asked to stop, or None."""

    def __init__(self) -> None:
        self.received: int | None = None


@contextmanager
def noting_signals(request: StopRequest) -> Iterator[None]:
    """Within the block, record the first signal in `request`, which the work polls; a second ends the process."""

    def note(number: int, frame: FrameType | None) -> None:
        request.received = number
        signal.signal(number, signal.SIG_DFL)

    with _handling(note):
        yield


@contextmanager
def raising_interrupted(run: RunFolder, where: str) -> Iterator[None]:
    """Within the block, a signal raises Interrupted at once: for work that is repeated when the run resumes."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Signal(number)

    try:
        with _handling(stop):
            yield
    except _Signal as received:
        raise interrupted(run, received.number, where) from None


def interrupted(run: RunFolder, number: int, where: str) -> Interrupted:
    """Return the error that says where the run stopped and how to continue it."""
    name = signal.Signals(number).name
    return Interrupted(f"stopped by {name} {where}. Continue with: {run.resume}", number)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous: dict[signal.Signals, Any] = {}
    try:
        for one in (signal.SIGINT, signal.SIGTERM):
            previous[one] = signal.signal(one, handler)
    except ValueError:  # outside the main thread, signals cannot be handled
        pass
    try:
        yield
    finally:
        for one, former in previous.items():
            signal.signal(one, former)
