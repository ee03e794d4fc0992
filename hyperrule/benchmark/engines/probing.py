"""Measures cells of the closed-form probe: extracts all features once, then fits a ridge regression per subset."""

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
    """The probes of one backbone on one data set at one size.

    Features are extracted for all `subsets` of the grid, even for those whose cells are done.
    """

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
        """Fit a probe to the cell's subset, and return its accuracy as a line."""
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
    """Return the l2 of `candidates` with the least squared error on left-out images, and its probe.

    Probes are fitted to `features`, float32 [N, D], and `labels`, int32 [N] from 0 to `classes` - 1.
    """
    targets = np.where(labels[:, np.newaxis] == np.arange(classes), 1.0, -1.0)
    probes = zip(candidates, fit_probes(features, labels, classes, candidates), strict=True)
    return min(probes, key=lambda one: float(np.mean((one[1].left_out_scores - targets) ** 2)))


def images_needed(planned: Sequence[PreparedCell]) -> int:
    """Return the number of images, test and training, whose features the probes of a task need."""
    plan, source = planned[0].plan, planned[0].source
    pool = _union(source.examples("train"), plan.class_names, [one.cell for one in planned])
    return len(pool) + plan.dataset.splits[plan.test_split.value].examples


def _union(training: Examples, class_names: tuple[str, ...], subsets: Sequence[Cell]) -> Indices:
    """Return the indices, ascending, of the images in any subset."""
    different = dict.fromkeys((cell.shots, cell.seed) for cell in subsets)
    return np.unique(np.concatenate([subset(training, class_names, *one) for one in different]))
