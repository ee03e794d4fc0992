"""Summarises the lines of a ledger over the seeds of each data set, backbone, method and number of shots.

`vtab_scores` adds VTAB-1k's score as one more data set: for each seed, the mean over tasks if all have a result.
`compare` compares two backbones, or two methods, on the same subsets: seed by seed, and by the mean difference.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from hyperrule.benchmark.ledger import Line, Shots
from hyperrule.data.sources.vtab import TASKS, TRAIN800, VAL200, Score, score
from hyperrule.errors import RecipeError
from hyperrule.evaluation.intervals import Interval, bootstrap_mean, paired_mean
from hyperrule.support.wording import did_you_mean, listed

NAMES = Score("vtab-1k", "vtab-1k, natural", "vtab-1k, specialized", "vtab-1k, structured")
Way = tuple[str, str, float | None]  # backbone, method, l2


class Cell(Protocol):
    """The place of a result in the grid; `grid.Cell` and `ledger.Line` have these properties."""

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
    """Cells that differ only in their seed; `l2` is None if each probe chose its own."""

    dataset: str
    backbone: str
    method: str
    shots: Shots
    l2: float | None = None

    @property
    def measured_by(self) -> str:
        """The method, as tables show it.

        >>> Group("digits", "bit-r26x0.5", "probe", 1, l2=1024.0).measured_by
        'probe, l2 1024'
        """
        return self.method if self.l2 is None else f"{self.method}, l2 {self.l2:g}"


@dataclass(frozen=True)
class Summary:
    """Accuracies (fractions) of a group by seed, reasons of failures by seed, and seeds without a line.

    `newest` is the last finished line, None if there is none.
    """

    group: Group
    top1: dict[int, float]
    failed: dict[int, str]
    missing: tuple[int, ...]
    newest: Line | None

    @property
    def seeds(self) -> int:
        """The number of seeds that the grid has."""
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
        """The interval of the mean over seeds, by bootstrap; None for fewer than two seeds."""
        return bootstrap_mean(list(self.top1.values()))


def summarise(lines: Sequence[Line], cells: Iterable[Cell] = ()) -> list[Summary]:
    """Return a summary of every group in the expected `cells` and in `lines`, of which there is one per cell.

    Data sets, backbones and methods keep the order of the cells, then of the lines; shots go from few to all.
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
    """Sort groups by the first appearance of data set, backbone and method, then by l2 and shots."""
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
    failed = {line.seed: line.error or "unknown reason" for line in lines if line.status == "failed"}
    failed = {seed: why for seed, why in sorted(failed.items()) if seed not in top1}
    return Summary(
        group=group,
        top1=dict(sorted(top1.items())),
        failed=failed,
        missing=tuple(sorted(seeds - set(top1) - set(failed))),
        newest=done[-1] if done else None,
    )


def vtab_scores(summaries: Sequence[Summary]) -> Iterator[Summary]:
    """Yield summaries of VTAB-1k's score, overall and by group of tasks, for every backbone and method.

    A data set is a task if it has the name of one and was trained on 1,000 images. The size in pixels is 0 if the tasks
    differ in it.
    """
    ways: dict[Way, dict[str, Summary]] = {}
    for summary in summaries:
        group, newest = summary.group, summary.newest
        if group.dataset in TASKS and newest is not None and newest.trained_on == TRAIN800 + VAL200:
            ways.setdefault((group.backbone, group.method, group.l2), {})[group.dataset] = summary
    for way, tasks in ways.items():
        yield from _of_way(way, tasks)


def _of_way(way: Way, tasks: dict[str, Summary]) -> Iterator[Summary]:
    backbone, method, l2 = way
    sizes = {task.newest.size for task in tasks.values() if task.newest is not None}
    line = next(iter(tasks.values())).newest
    assert line is not None
    line = line.model_copy(update={"size": sizes.pop() if len(sizes) == 1 else 0})
    seeds = sorted({seed for task in tasks.values() for seed in task.top1})
    scores = {seed: _of_seed(seed, tasks) for seed in seeds}
    for place, name in enumerate(NAMES):
        if top1 := {seed: mean for seed, means in scores.items() if (mean := means[place]) is not None}:
            yield Summary(Group(name, backbone, method, "full", l2), top1, {}, (), line)


def _of_seed(seed: int, tasks: dict[str, Summary]) -> Score[float | None]:
    return score({name: task.top1[seed] for name, task in tasks.items() if seed in task.top1})


@dataclass(frozen=True)
class Comparison:
    """Accuracies (fractions) of `one` and `other` by seed; `of` is the method or backbone that both share."""

    dataset: str
    one: str
    other: str
    of: str
    shots: Shots
    by_seed: dict[int, tuple[float, float]]

    @property
    def differences(self) -> list[float]:
        """One minus other, rounded to a millionth, so that equal accuracies give exactly 0."""
        return [round(mine - theirs, 6) for mine, theirs in self.by_seed.values()]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def interval(self) -> Interval | None:
        """The 95 % paired t interval of the mean; None for fewer than two seeds."""
        return paired_mean(self.differences)

    @property
    def wins(self) -> int:
        return sum(difference > 0 for difference in self.differences)

    @property
    def ties(self) -> int:
        return self.differences.count(0)

    @property
    def losses(self) -> int:
        return len(self.differences) - self.wins - self.ties


def compare(summaries: Sequence[Summary], one: str, other: str) -> list[Comparison]:
    """Compare two backbones or two methods, for every data set, number of shots, and method or backbone they share.

    Raises RecipeError if a name is not in the ledger, or if the two have no cell in common.
    """
    field = compared(summaries, one, other)
    known = {summary.group: summary for summary in summaries}
    found = []
    for group, mine in known.items():
        if getattr(group, field) != one:
            continue
        theirs = known.get(_with(group, field, other))
        if theirs is None or not _same_images(mine, theirs):
            continue
        if common := {seed: (mine.top1[seed], theirs.top1[seed]) for seed in mine.top1 if seed in theirs.top1}:
            of = group.measured_by if field == "backbone" else group.backbone
            found.append(Comparison(group.dataset, one, other, of, group.shots, common))
    if not found:
        raise RecipeError(
            f"{one} and {other} share no finished cell: none has the same data, shots, seed and "
            f"{'method' if field == 'backbone' else 'backbone'}. See what is done: hyperrule bench GRID --status"
        )
    return found


def compared(summaries: Sequence[Summary], one: str, other: str) -> str:
    """Return what is compared, "backbone" or "method". Raises RecipeError unless both names are of the same kind."""
    if one == other:
        raise RecipeError(f"cannot compare {one} with itself: name two different backbones, or two methods.")
    known = {
        field: list(dict.fromkeys(getattr(summary.group, field) for summary in summaries))
        for field in ("backbone", "method")
    }
    for field, names in known.items():
        if one in names and other in names:
            return field
    every = [name for names in known.values() for name in names]
    for name in (one, other):
        if name not in every:
            raise RecipeError(
                f"no backbone or method is called {name!r}: backbones are {listed(known['backbone']) or 'none'}; "
                f"methods {listed(known['method']) or 'none'}.{did_you_mean(name, every)}"
            )
    raise RecipeError(f"{one} and {other} are a backbone and a method: name two backbones, or two methods.")


def _with(group: Group, field: str, name: str) -> Group:
    if field == "backbone":
        return replace(group, backbone=name)
    return replace(group, method=name, l2=None)


def _same_images(one: Summary, other: Summary) -> bool:
    mine, theirs = one.newest, other.newest
    return mine is not None and theirs is not None and mine.data_sha256 == theirs.data_sha256
