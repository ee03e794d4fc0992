"""Two backbones, or two methods, on the same subsets: seed by seed, and the mean difference."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hyperrule.benchmark.ledger import Shots
from hyperrule.benchmark.summary import Group, Summary
from hyperrule.errors import RecipeError
from hyperrule.evaluation.intervals import Interval, paired_mean
from hyperrule.support.wording import did_you_mean, listed


@dataclass(frozen=True)
class Comparison:
    """Accuracies (fractions) of `one` and `other` by seed; `of` is the method or the backbone that both have."""

    dataset: str
    one: str
    other: str
    of: str
    shots: Shots
    by_seed: dict[int, tuple[float, float]]

    @property
    def differences(self) -> list[float]:
        """One minus other. Fractions of images are rounded to what a millionth tells apart, so that ties are ties."""
        return [round(mine - theirs, 6) for mine, theirs in self.by_seed.values()]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def interval(self) -> Interval | None:
        """Of the mean, 95 %, by the paired t; None of fewer than two seeds."""
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
    """Of every data set, number of shots and method (for two backbones) or backbone (for two methods).

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
            f"{one} and {other} have no finished cell in common: none of the same data, shots, seed and "
            f"{'method' if field == 'backbone' else 'backbone'}. See what is done: hyperrule bench GRID --status"
        )
    return found


def compared(summaries: Sequence[Summary], one: str, other: str) -> str:
    """Which the two are, "backbone" or "method". Raises RecipeError if they are not both one of these."""
    if one == other:
        raise RecipeError(f"{one} against itself: give two different backbones, or two methods.")
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
    raise RecipeError(f"{one} and {other} are a backbone and a method: give two backbones, or two methods.")


def _with(group: Group, field: str, name: str) -> Group:
    if field == "backbone":
        return replace(group, backbone=name)
    return replace(group, method=name, l2=None)


def _same_images(one: Summary, other: Summary) -> bool:
    mine, theirs = one.newest, other.newest
    return mine is not None and theirs is not None and mine.data_sha256 == theirs.data_sha256
