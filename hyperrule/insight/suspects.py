"""Which labels a probe that has not seen them finds improbable, and how many of those are more than chance."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Indices

RIGHT_AT_MOST = 0.5  # share of the suspected labels that may be right after all

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """`order` int64 [n]: images whose label is not the likeliest class, the most improbable label first. The first
    `suspected` of them stand out."""

    order: Indices
    suspected: int


def rank(probabilities: Probabilities, labels: npt.NDArray[np.int32], judged: npt.NDArray[np.bool_]) -> Ranking:
    """From probabilities [N, classes] by probes that have not seen the image, and labels [N]; of images that can be
    `judged` (bool [N]).

    The order is by the label's own probability, which found more flipped labels than the distance to the likeliest
    class or than its probability did (scripts/bench label_errors).
    """
    given = probabilities[np.arange(len(labels)), labels]
    doubted = np.flatnonzero(judged & (probabilities.argmax(axis=1) != labels))
    order = doubted[np.argsort(given[doubted], kind="stable")]
    right = expected_right(probabilities[judged], given[order])
    few_enough = np.flatnonzero(right <= RIGHT_AT_MOST * np.arange(1, len(order) + 1))
    return Ranking(order, int(few_enough[-1]) + 1 if len(few_enough) else 0)


def expected_right(probabilities: Probabilities, limits: Probabilities) -> Probabilities:
    """How many images [n] would have a label at most as probable as each limit [n] (ascending) if every label were
    drawn from the probabilities [N, classes], that is, if all were right and the probe calibrated.

    >>> expected_right(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0.05, 0.1, 0.2])).round(9).tolist()
    [0.0, 0.1, 0.3]
    """
    ascending = np.sort(probabilities, axis=None)
    sums = np.concatenate([[0.0], np.cumsum(ascending)])
    expected: Probabilities = sums[np.searchsorted(ascending, limits, side="right")]
    return expected
