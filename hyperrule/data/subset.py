"""Seeded choices among examples: hold-out splits and balanced few-shot subsets.

Which part of every batch a worker takes, and in how many pieces.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Indices
from hyperrule.errors import DataError
from hyperrule.support.wording import listed

TEST_FRACTION = 0.2


def hold_out(labels: npt.NDArray[np.int32], groups: Indices, seed: int) -> tuple[Indices, Indices]:
    """Stratified train and test indices (ascending): 20 % of each class, at least one, is test.

    Images of one group (int64 [n]: equal ones) stay together, so that none is both trained on and tested. Every
    class must have at least two examples; one whose images are all equal is split all the same.
    """
    train, test = [], []
    for members in _shuffled_members(labels, seed):
        distinct, first, group = np.unique(groups[members], return_index=True, return_inverse=True)
        if len(distinct) == 1:
            first = group = np.arange(len(members))
        in_order = np.sort(first)
        held_out = np.isin(first[group], in_order[: max(1, round(TEST_FRACTION * len(in_order)))])
        test.append(members[held_out])
        train.append(members[~held_out])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def few_shot(
    labels: npt.NDArray[np.int32], class_names: tuple[str, ...], examples_per_class: int, seed: int
) -> Indices:
    """Indices (ascending) of a balanced subset; with one seed, smaller subsets lie in larger ones.

    Raises DataError naming the classes that have fewer than `examples_per_class` examples.
    """
    members_by_class = list(_shuffled_members(labels, seed, len(class_names)))
    lacking = [
        f"{name!r} ({len(members)})"
        for name, members in zip(class_names, members_by_class, strict=True)
        if len(members) < examples_per_class
    ]
    if lacking:
        raise DataError(
            f"--examples-per-class {examples_per_class} is more than these classes have for training: "
            f"{listed(lacking)}. Choose at most {min(map(len, members_by_class))}."
        )
    return np.sort(np.concatenate([members[:examples_per_class] for members in members_by_class]))


def _shuffled_members(labels: npt.NDArray[np.int32], seed: int, classes: int | None = None) -> list[Indices]:
    classes = int(labels.max()) + 1 if classes is None else classes
    return [
        np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == label)) for label in range(classes)
    ]


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
