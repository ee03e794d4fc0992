"""Cells of the closed-form probe: features of all images that they need, once, then a ridge regression a subset."""

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from hyperrule.benchmark.cells import PreparedCell, subset
from hyperrule.benchmark.grid import Cell
from hyperrule.benchmark.ledger import Line
from hyperrule.data.images import Examples, Indices
from hyperrule.evaluation.features import features_of
from hyperrule.evaluation.probe import BLAS_THREADS, Probe, fit_probes
from hyperrule.support.progress import Reporter

Features = npt.NDArray[np.float32]


class Probing:
    """Probes of one backbone on one data set at one size, of all the `subsets` that a grid has of it: what is
    extracted depends on the grid, not on what is still to be done."""

    def __init__(self, planned: PreparedCell, subsets: Sequence[Cell], reporter: Reporter) -> None:
        plan, source = planned.plan, planned.source
        self.class_names = plan.class_names
        self.training = source.examples("train")
        self.test = source.examples(plan.test_split.value)
        self.pool = _union(self.training, self.class_names, subsets)
        size = plan.evaluation_size.value
        self.pool_features = features_of(plan.backbone, self.training.take(self.pool), size, reporter)
        self.test_features = features_of(plan.backbone, self.test, size, reporter)

    def measure(self, planned: PreparedCell) -> Line:
        """The accuracy of a probe that is fitted to the cell's subset."""
        start = time.perf_counter()
        cell = planned.cell
        chosen = subset(self.training, self.class_names, cell.shots, cell.seed)
        features, labels = self.pool_features[np.searchsorted(self.pool, chosen)], self.training.labels[chosen]
        with threadpool_limits(BLAS_THREADS, "blas"):
            l2, probe = best_probe(features, labels, len(self.class_names), planned.l2)
            right = probe.scores(self.test_features).argmax(axis=1) == self.test.labels
        seconds = time.perf_counter() - start
        return planned.done(float(np.mean(right)), len(right), len(chosen), seconds, l2)


def best_probe(
    features: Features, labels: npt.NDArray[np.int32], classes: int, candidates: Sequence[float]
) -> tuple[float, Probe]:
    """Of the candidates for l2 the one whose left-out scores have the least squared error, and its probe, fitted to
    features [N, D] and labels [N]."""
    targets = np.where(labels[:, np.newaxis] == np.arange(classes), 1.0, -1.0)
    probes = zip(candidates, fit_probes(features, labels, classes, candidates), strict=True)
    return min(probes, key=lambda one: float(np.mean((one[1].left_out_scores - targets) ** 2)))


def images_needed(planned: Sequence[PreparedCell]) -> int:
    """How many images the probes of a piece take the features of, test and training together."""
    plan, source = planned[0].plan, planned[0].source
    pool = _union(source.examples("train"), plan.class_names, [one.cell for one in planned])
    return len(pool) + plan.dataset.splits[plan.test_split.value].examples


def _union(training: Examples, class_names: tuple[str, ...], subsets: Sequence[Cell]) -> Indices:
    """Numbers (ascending) of the images of all subsets."""
    different = dict.fromkeys((cell.shots, cell.seed) for cell in subsets)
    return np.unique(np.concatenate([subset(training, class_names, *one) for one in different]))
