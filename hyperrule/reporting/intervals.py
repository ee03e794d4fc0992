"""How far figures from so many test images can be from the truth: 95 % intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from hyperrule.evaluation.metrics import ClassMetrics

LEVEL = 0.95
DRAWS = 2_000


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def wilson(correct: int, examples: int) -> Interval:
    """Of a fraction of examples (Wilson 1927).

    >>> around = wilson(95, 100)
    >>> round(around.low, 4), round(around.high, 4)
    (0.8882, 0.9785)
    """
    if examples == 0:
        return Interval(0.0, 1.0)
    found = binomtest(correct, examples).proportion_ci(LEVEL, "wilson")
    return Interval(float(found.low), float(found.high))


def balanced(per_class: Sequence[ClassMetrics]) -> Interval:
    """Of the balanced accuracy: percentiles of 2,000 bootstrap draws within each class, seed 0."""
    present = [known for known in per_class if known.examples]
    examples = np.array([known.examples for known in present])
    recall = np.array([known.recall for known in present])
    drawn = np.random.default_rng(0).binomial(examples, recall, (DRAWS, len(present))) / examples
    low, high = np.quantile(drawn.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
