"""Signals at which a benchmark stops, as events among others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, Signals, signal
from types import FrameType

from hyperrule.errors import Interrupted


@contextmanager
def signals_to(hear: Callable[[Signals], None]) -> Iterator[None]:
    """Within the block `hear` is called at SIGINT and SIGTERM, which do nothing else."""

    def note(number: int, frame: FrameType | None) -> None:
        hear(Signals(number))

    previous = {number: signal(number, note) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal(number, former)


def stopped_by(received: Signals) -> Interrupted:
    return Interrupted(
        f"stopped by {received.name}. Nothing that was finished is lost: the same command goes on.", received
    )
