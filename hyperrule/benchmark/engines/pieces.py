"""What one process does of a benchmark: all probes of a backbone on a data set, which share their features, or one
training.

Signals at which a benchmark stops, as events among others.
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


class Piece(BaseModel):
    """`shots` and `seed` are None where it has cells of them all."""

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


class Order(BaseModel):
    """A piece for a process that shares the machine with others, `jobs` in all; `planned` is the file in which its
    cells are, among others. Cells that failed are done again with `retry_failed`; for one that another process is at
    work on, this one waits `patience` seconds."""

    model_config = ConfigDict(frozen=True)

    piece: Piece
    planned: Path
    jobs: int = 1
    retry_failed: bool = False
    patience: float = LOOKED_AT


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
