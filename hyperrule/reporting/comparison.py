"""What tells runs apart that were measured on the same images: figures, gains and losses, classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from hyperrule.evaluation.intervals import Interval
from hyperrule.evaluation.metrics import Metrics
from hyperrule.reporting.finished_run import Prediction

LISTED_CLASSES = 200  # rows of the tables of classes


@dataclass(frozen=True)
class Figure:
    """A number of the result, with its 95 % interval where there is one, and what it is."""

    name: str
    value: str
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class Against:
    """A run against the first, on the same test images: those that it alone names rightly, those that the first
    alone does, and how likely so uneven a division is by chance (McNemar's exact test)."""

    gained: int
    lost: int
    chance: float


@dataclass(frozen=True)
class Row:
    """A run on the page; `against` is None for the first and for runs on other data."""

    name: str
    data: str
    comparable: bool
    figures: dict[str, Figure]
    against: Against | None


@dataclass(frozen=True)
class ClassScores:
    """F1 of a class by run."""

    name: str
    f1: list[float]

    @property
    def spread(self) -> float:
        return max(self.f1) - min(self.f1)


def compare(mine: Sequence[Prediction], first: Sequence[Prediction]) -> Against:
    """Predictions of one run against those of the first, of the same images."""
    right = {one.id for one in first if one.correct}
    right_here = {one.id for one in mine if one.correct}
    gained, lost = len(right_here - right), len(right - right_here)
    chance = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Against(gained, lost, chance)


def class_scores(metrics: Sequence[Metrics]) -> list[ClassScores]:
    """By how far the runs are apart; all have the same classes."""
    scores = [
        ClassScores(of_class[0].name, [one.f1 for one in of_class])
        for of_class in zip(*(one.per_class for one in metrics), strict=True)
    ]
    return sorted(scores, key=lambda one: -one.spread)[:LISTED_CLASSES]
