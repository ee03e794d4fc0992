"""The micro-batches of every step, cut smaller when memory ends."""

from collections.abc import Callable, Iterator
from itertools import islice

from hyperrule.data.pipeline import MicroBatch

Cut = Callable[[int, int], tuple[int, Iterator[MicroBatch]]]


class Feed:
    """`cut(step, micro_batch)` gives the micro-batches from a step on, and how many make up one step.

    The micro-batch is a number of examples for each device; which examples make up a step does not depend on it.
    """

    def __init__(self, cut: Cut, micro_batch: int, first: int) -> None:
        self._cut = cut
        self.begin(first, micro_batch)

    def begin(self, step: int, micro_batch: int) -> None:
        """Go on at the start of a step, with micro-batches of this size."""
        self.micro_batch = micro_batch
        self.per_step, self._micro_batches = self._cut(step, micro_batch)

    def step(self) -> Iterator[MicroBatch]:
        """The micro-batches of the next step."""
        return islice(self._micro_batches, self.per_step)
