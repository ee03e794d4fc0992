"""The closed-form linear probe: ridge regression of +-1 targets on frozen, whitened features.

Source of whitening, constant feature, targets and l2: google-research/big_vision,
`evaluators/fewshot_lsr.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

Floats = npt.NDArray[np.float64]
Solver = Callable[[float], tuple[Floats, Floats, Floats]]

CONSTANT_FEATURE = 100.0  # so that l2 hardly regularises the bias
STD_EPSILON = 1e-5
L2 = 2.0**10
L2_CANDIDATES = (2.0**4, 2.0**6, 2.0**8, 2.0**10, 2.0**12)
# For callers, with threadpoolctl. A 1000 x 1000 eigendecomposition took 0.19 s of CPU time with one thread, and 2.5 s
# with two threads on two busy cores, as they spin while waiting. One thread also rounds the same on machines of a kind.
BLAS_THREADS = 1


@dataclass(frozen=True)
class Probe:
    """Linear scores on raw features: `features @ kernel + bias`, about -1 to 1.

    `kernel` [D, classes] and `bias` [classes], both float64, include the whitening. `left_out_scores` [N, classes] are
    each training example's scores by a probe fitted without that example and those of its group.
    """

    kernel: Floats
    bias: Floats
    left_out_scores: Floats

    def scores(self, features: npt.NDArray[np.float32]) -> Floats:
        """Return the scores float64 [M, classes] of features float32 [M, D]."""
        return features @ self.kernel + self.bias


def fit_probe(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int, l2: float = L2) -> Probe:
    """Fit on features float32 [N, D] and labels int32 [N]; solves the smaller of the D x D and the N x N system."""
    return next(fit_probes(features, labels, classes, (l2,)))


def fit_probes(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    classes: int,
    l2s: Iterable[float],
    groups: npt.NDArray[np.int64] | None = None,
    std_epsilon: float = STD_EPSILON,
) -> Iterator[Probe]:
    """Yield a probe for each l2, like that of `fit_probe`; all share the eigendecomposition, the only slow part.

    Features are divided by the sum of their standard deviation and `std_epsilon`. Examples of the same group (`groups`
    is [N]; by default each example has its own) must have equal features, and are left out together.
    """
    wide = features.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0) + std_epsilon
    x = np.concatenate([(wide - mean) / std, np.full((len(wide), 1), CONSTANT_FEATURE)], axis=1)
    y = np.where(labels[:, np.newaxis] == np.arange(classes), 1.0, -1.0)
    solve = _solver(x, y) if x.shape[0] >= x.shape[1] else _dual_solver(x, y)
    equals, targets = _equals(y, groups)
    for weights, fitted, leverage in map(solve, l2s):
        kernel = weights[:-1] / std[:, np.newaxis]
        left_out = (fitted - leverage * targets) / (1 - leverage * equals)
        yield Probe(kernel, CONSTANT_FEATURE * weights[-1] - mean @ kernel, left_out)


def _equals(y: Floats, groups: npt.NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    """Return for each example the size of its group [N, 1], and the sum of the group's targets [N, classes]."""
    if groups is None:
        return np.ones((len(y), 1)), y
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), y.shape[1]))
    np.add.at(sums, place, y)
    return counts[place][:, np.newaxis].astype(np.float64), sums[place]


def _solver(x: Floats, y: Floats) -> Solver:
    """Return the function l2 -> weights [D, classes], scores [N, classes] and leverages [N, 1], by the D x D system."""
    values, vectors = np.linalg.eigh(x.T @ x)
    rotated = x @ vectors
    targets, squares = rotated.T @ y, rotated**2

    def solve(l2: float) -> tuple[Floats, Floats, Floats]:
        inverse = 1 / (values + l2)
        solution = inverse[:, np.newaxis] * targets
        return vectors @ solution, rotated @ solution, (squares @ inverse)[:, np.newaxis]

    return solve


def _dual_solver(x: Floats, y: Floats) -> Solver:
    """Return the same function as `_solver`, by the N x N system."""
    values, vectors = np.linalg.eigh(x @ x.T)
    targets, squares = vectors.T @ y, vectors**2

    def solve(l2: float) -> tuple[Floats, Floats, Floats]:
        inverse = 1 / (values + l2)
        dual = vectors @ (inverse[:, np.newaxis] * targets)
        return x.T @ dual, y - l2 * dual, 1 - l2 * (squares @ inverse)[:, np.newaxis]

    return solve


def left_out_accuracy(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int) -> float:
    """Return the accuracy of probes on features float32 [N, D], each image judged by a probe fitted without it.

    Of the l2 in `L2_CANDIDATES`, the best counts. `labels` are int32 [N].
    """
    with threadpool_limits(BLAS_THREADS, "blas"):
        fitted = fit_probes(features, labels, classes, L2_CANDIDATES, std_epsilon=_mean_std(features))
        return max(float(np.mean(probe.left_out_scores.argmax(axis=1) == labels)) for probe in fitted)


def fit_head(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return kernel [D, classes] and bias [classes], float32, of a softmax head that predicts what a probe predicts.

    Ridge scores are not logits: they are multiplied by the factor that minimises the cross-entropy of the left-out
    scores, so that the head starts neither under- nor overconfident. The same cross-entropy selects l2 from
    `L2_CANDIDATES`.

    A feature that hardly varies among few images would get a weight of hundreds, and dominate the head as soon as
    training changes it. So features are divided by the sum of their standard deviation and the mean standard deviation.
    On 10 images a class of sign-digits, a head on EfficientNet-Lite0 then reaches top-1 75.1 % instead of 71.9 %, and a
    cross-entropy of 0.77 instead of 1.97 (means of 3 seeds).
    """
    fitted = fit_probes(features, labels, classes, L2_CANDIDATES, std_epsilon=_mean_std(features))
    _, factor, probe = min(
        (
            (_cross_entropy(factor * probe.left_out_scores, labels), factor, probe)
            for probe in fitted
            for factor in np.geomspace(0.5, 100.0, 40)
        ),
        key=lambda candidate: candidate[0],
    )
    return (factor * probe.kernel).astype(np.float32), (factor * probe.bias).astype(np.float32)


def _mean_std(features: npt.NDArray[np.float32]) -> float:
    return float(features.std(axis=0).mean()) + STD_EPSILON


def _cross_entropy(logits: Floats, labels: npt.NDArray[np.int32]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]))
