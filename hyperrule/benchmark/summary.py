"""From the lines of a ledger to figures: what the seeds of each (data set, backbone, method, shots) gave."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from hyperrule.benchmark.ledger import Line, Shots
from hyperrule.evaluation.intervals import Interval, bootstrap_mean


class Cell(Protocol):
    """Where in the grid a result belongs; cells and lines of a ledger are some."""

    @property
    def dataset(self) -> str: ...
    @property
    def backbone(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def shots(self) -> Shots: ...
    @property
    def seed(self) -> int: ...
    @property
    def l2(self) -> float | None: ...


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed alone; `l2` is None where each probe chose its own."""

    dataset: str
    backbone: str
    method: str
    shots: Shots
    l2: float | None = None

    @property
    def measured_by(self) -> str:
        """The method, as tables say it.

        >>> Group("digits", "bit-r26x0.5", "probe", 1, l2=1024.0).measured_by
        'probe, l2 1024'
        """
        return self.method if self.l2 is None else f"{self.method}, l2 {self.l2:g}"


@dataclass(frozen=True)
class Summary:
    """Accuracies (fractions) of a group and reasons of its failures, by seed, and seeds that nothing is known of.

    `newest` is the last line that is done, None where there is none.
    """

    group: Group
    top1: dict[int, float]
    failed: dict[int, str]
    missing: tuple[int, ...]
    newest: Line | None

    @property
    def seeds(self) -> int:
        """That were asked for."""
        return len(self.top1) + len(self.failed) + len(self.missing)

    @property
    def min(self) -> float:
        return min(self.top1.values())

    @property
    def median(self) -> float:
        return statistics.median(self.top1.values())

    @property
    def max(self) -> float:
        return max(self.top1.values())

    @property
    def mean(self) -> float:
        return statistics.fmean(self.top1.values())

    @cached_property
    def mean_interval(self) -> Interval | None:
        """Of the mean over seeds, by bootstrap; None of fewer than two."""
        return bootstrap_mean(list(self.top1.values()))


def summarise(lines: Sequence[Line], cells: Iterable[Cell] = ()) -> list[Summary]:
    """A summary of every group of the expected `cells` and of `lines`, of which there is one a cell.

    Data sets, backbones and methods come in the order of the cells, then of the lines; shots from few to all.
    """
    expected = list(cells)
    by_l2 = {_coarse(cell) for cell in expected if cell.l2 is not None}  # the grid measures each l2

    def group_of(cell: Cell) -> Group:
        group = _coarse(cell)
        return replace(group, l2=cell.l2) if group in by_l2 else group

    asked: dict[Group, set[int]] = {}
    for cell in (*expected, *lines):
        asked.setdefault(group_of(cell), set()).add(cell.seed)
    of_group: dict[Group, list[Line]] = {group: [] for group in asked}
    for line in lines:
        of_group[group_of(line)].append(line)
    return [_summary(group, of_group[group], asked[group]) for group in _ordered(asked)]


def _coarse(cell: Cell) -> Group:
    return Group(cell.dataset, cell.backbone, cell.method, cell.shots)


def _ordered(groups: Iterable[Group]) -> list[Group]:
    """By the first appearance of data set, backbone and method, then by l2 and shots."""
    groups = list(groups)
    datasets, backbones, methods = (
        list(dict.fromkeys(getattr(group, name) for group in groups)) for name in ("dataset", "backbone", "method")
    )

    def place(group: Group) -> tuple[float, ...]:
        shots = math.inf if group.shots == "full" else group.shots
        names = datasets.index(group.dataset), backbones.index(group.backbone), methods.index(group.method)
        return *names, group.l2 or 0, shots

    return sorted(groups, key=place)


def _summary(group: Group, lines: Sequence[Line], seeds: set[int]) -> Summary:
    done = [line for line in lines if line.status == "done"]
    top1 = {line.seed: line.top1 for line in done if line.top1 is not None}
    failed = {line.seed: line.error or "no reason is known" for line in lines if line.status == "failed"}
    failed = {seed: why for seed, why in sorted(failed.items()) if seed not in top1}
    return Summary(
        group=group,
        top1=dict(sorted(top1.items())),
        failed=failed,
        missing=tuple(sorted(seeds - set(top1) - set(failed))),
        newest=done[-1] if done else None,
    )
