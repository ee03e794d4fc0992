"""Probabilities of every image's classes, by a probe that has seen neither it nor an equal image."""

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from hyperrule.data.contents import Indices
from hyperrule.evaluation.probe import fit_head
from hyperrule.progress import Reporter

FOLDS = 5


def deal(labels: npt.NDArray[np.int32], groups: Indices, folds: int, seed: int) -> Indices:
    """The fold of every image, int64 [N], from 0: equal images (`groups` [N]) have the same, and each class is spread
    evenly, one with a single image being in one fold and in no other."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[by_class] = np.arange(len(first)) % folds
    dealt: Indices = fold[group]
    return dealt


def out_of_fold(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int, folds: Indices, reporter: Reporter
) -> npt.NDArray[np.float64]:
    """Probabilities [N, classes] from features [N, D] and labels [N], each fold's (`folds` [N]) by the calibrated probe
    of all others."""
    probabilities = np.empty((len(labels), classes))
    every = np.unique(folds)
    with reporter.stage("Folds", len(every)) as report:
        for done, fold in enumerate(every, start=1):
            out = folds == fold
            kernel, bias = fit_head(features[~out], labels[~out], classes)
            probabilities[out] = softmax((features[out] @ kernel + bias).astype(np.float64), axis=1)
            report(done, "")
    return probabilities
