"""Which part of every batch a worker takes, and in how many pieces."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Worker `index` of `count`, with `devices` that each take a micro-batch at a time.

    Workers take consecutive parts, equal but for one example; all go through the same number of micro-batches, the
    last ones padded.
    """

    index: int = 0
    count: int = 1
    devices: int = 1

    def part(self, examples: int) -> range:
        """The positions, of `examples`, that are this worker's."""
        return range(self.index * examples // self.count, (self.index + 1) * examples // self.count)

    def rounds(self, examples: int, micro_batch: int) -> int:
        """How often the devices take a micro-batch until all examples are through; the same for every worker."""
        return math.ceil(math.ceil(examples / self.count) / (micro_batch * self.devices))

    def rows(self, examples: int, micro_batch: int) -> int:
        """Examples that a worker goes through, padding included."""
        return self.rounds(examples, micro_batch) * micro_batch * self.devices
