"""The tasks of a benchmark: one task is the work of one process.

A task is one training, or all probes of a backbone on a data set, which share their features. `signals_to` passes on
the signals at which the processes of a benchmark stop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals, signal
from types import FrameType
from typing import Self

from pydantic import BaseModel, ConfigDict

from hyperrule.benchmark.grid import Cell
from hyperrule.benchmark.ledger import LOOKED_AT, Method, Shots
from hyperrule.errors import Interrupted


class Task(BaseModel):
    """Identifies a task. `shots` and `seed` are None for probes, which have cells of all."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    backbone: str
    method: Method
    shots: Shots | None = None
    seed: int | None = None

    @classmethod
    def of(cls, cell: Cell) -> Self:
        own = {"dataset", "backbone", "method"} | (set() if cell.method == "probe" else {"shots", "seed"})
        return cls.model_validate(cell.model_dump(include=own))

    def __str__(self) -> str:
        parts = [self.dataset, self.backbone, self.method]
        parts += [] if self.shots is None else [f"{self.shots} shots", f"seed {self.seed}"]
        return ", ".join(parts)


class Assignment(BaseModel):
    """A task for one of `jobs` processes that share a machine.

    `planned` is the file that has its cells, among others. With `retry_failed`, failed cells are measured again. The
    process waits `patience` seconds for a cell that another process has locked.
    """

    model_config = ConfigDict(frozen=True)

    task: Task
    planned: Path
    jobs: int = 1
    retry_failed: bool = False
    patience: float = LOOKED_AT


@contextmanager
def signals_to(hear: Callable[[Signals], None]) -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM only call `hear`."""

    def note(number: int, frame: FrameType | None) -> None:
        hear(Signals(number))

    previous = {number: signal(number, note) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal(number, former)


def stopped_by(received: Signals) -> Interrupted:
    return Interrupted(f"stopped by {received.name}. Finished cells are kept: the same command resumes.", received)
