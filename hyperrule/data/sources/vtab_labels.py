"""Labels of the VTAB tasks, computed from the features that TFDS stores with each image.

Mappings and constants are those of google-research/task_adaptation, task_adaptation/data/*.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from hyperrule.data.sources.tfexample import Record
from hyperrule.errors import DataError

Features = Mapping[str, Any]  # TFDS features by key


class Label(Protocol):
    """Maps a record to its class."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The features that the label is computed from."""
        ...

    def class_names(self, features: Features) -> tuple[str, ...]: ...

    def __call__(self, record: Record) -> int:
        """Return an index into the class names, or -1 without a label. Raises DataError if the features do not fit."""
        ...


@dataclass(frozen=True)
class Stored:
    """The label as stored."""

    key: str = "label"

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def class_names(self, features: Features) -> tuple[str, ...]:
        return tuple(features[self.key].names)

    def __call__(self, record: Record) -> int:
        return _integer(record, self.key)


@dataclass(frozen=True)
class Binned:
    """Groups of consecutive stored classes: value x bins / of, rounded down, for values from 0 to `of` - 1."""

    key: str
    of: int
    bins: int

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def class_names(self, features: Features) -> tuple[str, ...]:
        return tuple(str(number) for number in range(self.bins))

    def __call__(self, record: Record) -> int:
        value = _integer(record, self.key)
        if not 0 <= value < self.of:
            raise DataError(f"{self.key!r} of {record} is {value}; it must be from 0 to {self.of - 1}.")
        return value * self.bins // self.of


@dataclass(frozen=True)
class Counted:
    """The number of values of `key`; `fewest` values are class 0."""

    key: str
    fewest: int
    most: int

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def class_names(self, features: Features) -> tuple[str, ...]:
        return tuple(f"{count} objects" for count in range(self.fewest, self.most + 1))

    def __call__(self, record: Record) -> int:
        count = len(_values(record, self.key))
        if not self.fewest <= count <= self.most:
            raise DataError(f"{record} has {count} objects; it must be {self.fewest} to {self.most}.")
        return count - self.fewest


@dataclass(frozen=True)
class Nearest:
    """The distance of the nearest object: class i is above thresholds[i] and at most thresholds[i + 1], if that exists.

    `points` is a feature of triples whose last number is the distance. If `kind` is set, only objects whose `kind` is
    below `kinds` count. Without any object, the distance is `nothing`.
    """

    points: str
    thresholds: tuple[float, ...]
    names: tuple[str, ...]
    kind: str = ""
    kinds: int = 0
    nothing: float = np.inf

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.points, self.kind) if self.kind else (self.points,)

    def class_names(self, features: Features) -> tuple[str, ...]:
        return self.names

    def __call__(self, record: Record) -> int:
        distances = np.reshape(_values(record, self.points), (-1, 3))[:, 2]
        if self.kind:
            distances = distances[np.array(_values(record, self.kind)) < self.kinds]
        distance = float(min(distances, default=self.nothing))
        found = (
            int(np.searchsorted(self.thresholds, distance)) - 1
        )  # a distance equal to a threshold is in the class below it
        if not 0 <= found < len(self.names):
            raise DataError(f"the nearest object of {record} is at {distance:g}, which no class of the task covers.")
        return found


def ranges(thresholds: tuple[float, ...], unit: str = "") -> tuple[str, ...]:
    """Return the names of the classes between thresholds.

    >>> ranges((0, 8, 8.5))
    ('0 to 8', '8 to 8.5')
    """
    return tuple(f"{low:g} to {high:g}{unit}" for low, high in pairwise(thresholds))


def _values(record: Record, key: str) -> list[Any]:
    if (values := record.feature(key)) is None:
        raise DataError(f"{record} has no {key!r}; it has: {', '.join(record.keys())}.")
    return list(values)


def _integer(record: Record, key: str) -> int:
    values = _values(record, key)
    if len(values) != 1 or not isinstance(values[0], int):
        raise DataError(f"{key!r} of {record} is not one integer.")
    return values[0]
