"""Accuracy of the closed-form probe on nested parts of the training images, each half of the one before."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from hyperrule.data.images import Indices
from hyperrule.data.selection import nested_subset
from hyperrule.evaluation.probe import BLAS_THREADS, fit_probe
from hyperrule.support.progress import Reporter

SEEDS = 5  # subsets of each size


@dataclass(frozen=True)
class SubsetAccuracies:
    """What probes of subsets got right; `labels` int64 [P] ascending, the last all that there are.

    `correct` bool [P, seeds, test images]: of all labels there is one subset, so its rows are the same.
    """

    labels: Indices
    correct: npt.NDArray[np.bool_]

    @property
    def top1(self) -> npt.NDArray[np.float64]:
        """float64 [P, seeds], fractions."""
        found: npt.NDArray[np.float64] = self.correct.mean(axis=2)
        return found


def measure(
    training: tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]],
    testing: tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]],
    classes: int,
    reporter: Reporter,
) -> SubsetAccuracies:
    """From features [N, D] and labels [N] of both; every class has training images."""
    features, labels = training
    test_features, test_labels = testing

    def correct(chosen: Indices) -> npt.NDArray[np.bool_]:
        with threadpool_limits(BLAS_THREADS, "blas"):
            scores = fit_probe(features[chosen], labels[chosen], classes).scores(test_features)
        right: npt.NDArray[np.bool_] = scores.argmax(axis=1) == test_labels
        return right

    sizes = halved(np.bincount(labels, minlength=classes))
    everything = np.broadcast_to(correct(np.arange(len(labels))), (SEEDS, len(test_labels)))
    parts = []
    with reporter.stage("Probes", len(sizes), done=1) as report:
        for counts in sizes[:-1]:
            parts.append([correct(nested_subset(labels, counts, seed)) for seed in range(SEEDS)])
            report(1 + len(parts), "sizes")
    return SubsetAccuracies(np.array([counts.sum() for counts in sizes]), np.array([*parts, everything]))


def halved(counts: Indices) -> list[Indices]:
    """Images of each class in every part, ascending, from images of each class, int64 [classes]: as they are, halved,
    and so on, down to one a class.

    >>> [part.tolist() for part in halved(np.array([9, 4]))]
    [[1, 1], [2, 1], [4, 2], [9, 4]]
    """
    return list(_halvings(counts))[::-1]


def _halvings(counts: Indices) -> Iterator[Indices]:
    part, times = counts, 0
    while True:
        yield part
        if part.max() == 1:
            return
        times += 1
        part = np.maximum(counts >> times, 1)
