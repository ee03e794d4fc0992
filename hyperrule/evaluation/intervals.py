"""95 % confidence intervals.

`wilson` and `balanced` cover the sampling of test images. `bootstrap_mean` and `paired_mean` cover the choice of seeds,
which draw labelled images and training; the test images are the same for all seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm, t

from hyperrule.evaluation.metrics import ClassMetrics

LEVEL = 0.95
OUTSIDE = (1 - LEVEL) / 2  # on each side
DRAWS = 2_000  # bootstrap draws of `balanced`
ENUMERATED = 6  # values; of so many or fewer, all resamples are enumerated (at most 6^6)
MEAN_DRAWS = 10_000  # random resamples of more values


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of the values."""

    low: float
    high: float


def wilson(correct: int, examples: int) -> Interval:
    """Return the interval of the fraction correct / examples (Wilson 1927); 0 to 1 if there are no examples.

    >>> around = wilson(95, 100)
    >>> round(around.low, 4), round(around.high, 4)
    (0.8882, 0.9785)
    """
    if examples == 0:
        return Interval(0.0, 1.0)
    found = binomtest(correct, examples).proportion_ci(LEVEL, "wilson")
    return Interval(float(found.low), float(found.high))


def balanced(per_class: Sequence[ClassMetrics]) -> Interval:
    """Return the interval of the balanced accuracy: percentiles of 2,000 bootstrap draws within each class, seed 0."""
    present = [known for known in per_class if known.examples]
    examples = np.array([known.examples for known in present])
    recall = np.array([known.recall for known in present])
    drawn = np.random.default_rng(0).binomial(examples, recall, (DRAWS, len(present))) / examples
    low, high = np.quantile(drawn.mean(axis=1), [OUTSIDE, 1 - OUTSIDE])
    return Interval(float(low), float(high))


def bootstrap_mean(values: Sequence[float]) -> Interval | None:
    """Return the interval of the mean by expanded percentiles of the bootstrap means; None for fewer than two values.

    Plain percentiles are too narrow for few values. Expanded ones (Hesterberg, "What teachers should know about the
    bootstrap", The American Statistician 69, 2015) are widened as by Student's t. With normally distributed values,
    the interval covers the mean in 93 % of 4,000 draws of 5 values (plain: 85 %), and in 75 % of draws of 3 values
    (plain: 68 %): no bootstrap interval exceeds the lowest and the highest value.

    >>> bootstrap_mean([0.5, 0.7])
    Interval(low=0.5, high=0.7)
    """
    n = len(values)
    if n < 2:
        return None
    means = np.asarray(values, np.float64)[_resamples(n)].mean(axis=1)
    outside = norm.cdf(t.ppf(OUTSIDE, n - 1) * np.sqrt(n / (n - 1)))
    low, high = np.quantile(means, [outside, 1 - outside], method="closest_observation")
    return Interval(float(low), float(high))


def paired_mean(differences: Sequence[float]) -> Interval | None:
    """Return the interval of the mean of paired differences by Student's t; None for fewer than two.

    >>> around = paired_mean([0.01, 0.02, 0.03])
    >>> round(around.low, 4), round(around.high, 4)
    (-0.0048, 0.0448)
    """
    n = len(differences)
    if n < 2:
        return None
    mean, half = np.mean(differences), -t.ppf(OUTSIDE, n - 1) * np.std(differences, ddof=1) / np.sqrt(n)
    return Interval(float(mean - half), float(mean + half))


def _resamples(n: int) -> npt.NDArray[np.int64]:
    """Return resamples of n values as indices, int64 [resamples, n]."""
    if n <= ENUMERATED:
        return np.array(list(product(range(n), repeat=n)))
    return np.random.default_rng(0).integers(n, size=(MEAN_DRAWS, n))
