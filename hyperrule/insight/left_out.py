"""Probabilities of every image's classes, by a probe that has seen neither it nor an equal image."""

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from hyperrule.data.images import Indices
from hyperrule.evaluation.confidence import fit_temperature
from hyperrule.evaluation.probe import BLAS_THREADS, L2_CANDIDATES, fit_probes
from hyperrule.support.progress import Reporter

SEED = 0  # of the halves

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]


def left_out_probabilities(
    features: npt.NDArray[np.float32], labels: Labels, classes: int, groups: Indices, reporter: Reporter
) -> Floats:
    """Probabilities [N, classes] from features [N, D], labels [N] and `groups` [N] of equal images.

    They are left-out scores of one probe fitted to all, in closed form, and so cost one eigendecomposition. l2 is that
    of least cross-entropy. Each half of the images has the temperature that was fitted to the other half: but for these
    two numbers, what is said of an image does not depend on its own label.
    """
    halves = deal(labels, groups, 2, SEED)
    calibrated = []
    with reporter.stage("Probes", len(L2_CANDIDATES)) as report, threadpool_limits(BLAS_THREADS, "blas"):
        for done, probe in enumerate(fit_probes(features, labels, classes, L2_CANDIDATES, groups), start=1):
            calibrated.append(_calibrated(probe.left_out_scores, labels, halves))
            report(done, "")
    places = np.arange(len(labels))
    best: Floats = np.exp(max(calibrated, key=lambda logs: float(np.mean(logs[places, labels]))))
    return best


def _calibrated(scores: Floats, labels: Labels, halves: Indices) -> Floats:
    """Logarithms of probabilities [N, classes]."""
    logs = np.empty_like(scores)
    for half in (0, 1):
        here = halves == half
        logs[here] = log_softmax(scores[here] / fit_temperature(scores[~here], labels[~here]), axis=1)
    return logs


def deal(labels: Labels, groups: Indices, parts: int, seed: int) -> Indices:
    """The part of every image, int64 [N], from 0: equal images (`groups` [N]) have the same, and each class is spread
    evenly."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    part = np.empty(len(first), np.int64)
    part[by_class] = np.arange(len(first)) % parts
    dealt: Indices = part[group]
    return dealt
