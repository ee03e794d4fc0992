"""Which images: splits that are drawn, few-shot subsets, what is excluded, and each worker's share."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Indices
from hyperrule.errors import DataError
from hyperrule.support.files import atomic_write, os_errors_as
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
    return nested_subset(labels, np.full(len(class_names), examples_per_class), seed)


def nested_subset(labels: npt.NDArray[np.int32], counts: Indices, seed: int) -> Indices:
    """Indices (ascending) of `counts[label]` (int64 [classes]) examples of each class, chosen by a permutation of the
    class: with one seed, smaller subsets lie in larger ones."""
    shuffled = _shuffled_members(labels, seed, len(counts))
    return np.sort(np.concatenate([members[:count] for members, count in zip(shuffled, counts, strict=True)]))


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


HEADER = ("id", "reason")


@dataclass(frozen=True)
class Exclusions:
    """Ids of images that must not be used, and the file that says so."""

    ids: frozenset[str] = frozenset()
    origin: Path | None = None

    def remaining(self, members: Indices, ids: Sequence[str]) -> Indices:
        """The numbers among `members` of images that stay. Raises DataError for ids that no image has."""
        if not self.ids:
            return members
        unknown = self.ids.difference(ids)
        if unknown:
            raise DataError(
                f"{self.origin} excludes {len(unknown)} images that the data set does not have: "
                f"{listed(map(repr, sorted(unknown)))}. Ids are such as {ids[0]!r}. Is it the file of another data set?"
            )
        return members[np.fromiter((ids[index] not in self.ids for index in members), np.bool_, len(members))]


def read_exclusions(file: Path) -> Exclusions:
    """CSV with a column `id`. Raises DataError if the file cannot be read or has no such column."""
    with os_errors_as(DataError, f"cannot read --exclude {file}"):
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                rows = csv.DictReader(stream)
                if "id" not in (rows.fieldnames or ()):
                    raise DataError(
                        f"{file} has no column 'id'. Received: {listed(rows.fieldnames or ()) or 'nothing'}. "
                        "--exclude takes the CSV that 'hyperrule check --write-exclusions FILE' writes."
                    )
                return Exclusions(frozenset(row["id"] for row in rows if row["id"]), file)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{file} is not CSV: {error}.") from None


def write_exclusions(file: Path, reasons: Iterable[tuple[str, str]]) -> None:
    """Ids and reasons, a row each."""
    with atomic_write(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADER)
        writer.writerows(reasons)
