"""The closed-form linear probe: ridge regression of +-1 targets on frozen, whitened features.

Source of whitening, constant feature, targets and l2: google-research/big_vision,
`evaluators/fewshot_lsr.py`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONSTANT_FEATURE = 100.0  # so that l2 hardly regularises the bias
STD_EPSILON = 1e-5
L2 = 2.0**10
L2_CANDIDATES = (2.0**4, 2.0**6, 2.0**8, 2.0**10, 2.0**12)


@dataclass(frozen=True)
class Probe:
    """Linear scores on raw features: `features @ kernel + bias`, about -1 to 1.

    `kernel` [D, classes] and `bias` [classes] hold the whitening; `left_out_scores` [N, classes] are
    the scores that each training example would get from a probe fitted without it.
    """

    kernel: Floats
    bias: Floats
    left_out_scores: Floats

    def scores(self, features: npt.NDArray[np.float32]) -> Floats:
        return features @ self.kernel + self.bias


def fit_probe(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int, l2: float = L2) -> Probe:
    """Fit on features [N, D] and labels [N]; solves the smaller of the D x D and the N x N system."""
    wide = features.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0) + STD_EPSILON
    x = np.concatenate([(wide - mean) / std, np.full((len(wide), 1), CONSTANT_FEATURE)], axis=1)
    y = np.where(labels[:, np.newaxis] == np.arange(classes), 1.0, -1.0)
    if x.shape[0] >= x.shape[1]:
        inverse = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
        weights = inverse @ (x.T @ y)
        leverage = np.einsum("nd,nd->n", x @ inverse, x)[:, np.newaxis]
        left_out = (x @ weights - leverage * y) / (1 - leverage)
    else:
        inverse = np.linalg.inv(x @ x.T + l2 * np.eye(x.shape[0]))
        dual = inverse @ y
        weights = x.T @ dual
        left_out = y - dual / np.diag(inverse)[:, np.newaxis]
    kernel = weights[:-1] / std[:, np.newaxis]
    return Probe(kernel, CONSTANT_FEATURE * weights[-1] - mean @ kernel, left_out)


def fit_head(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Kernel [D, classes] and bias [classes] of a softmax head that says what a probe says.

    Ridge scores are no logits: they are multiplied by the factor that gives the left-out scores the
    least cross-entropy, so that the head starts neither timid nor overconfident. The same
    cross-entropy chooses l2 from `L2_CANDIDATES`.
    """
    fitted = (fit_probe(features, labels, classes, l2) for l2 in L2_CANDIDATES)
    _, factor, probe = min(
        (
            (_cross_entropy(factor * probe.left_out_scores, labels), factor, probe)
            for probe in fitted
            for factor in np.geomspace(0.5, 100.0, 40)
        ),
        key=lambda candidate: candidate[0],
    )
    return (factor * probe.kernel).astype(np.float32), (factor * probe.bias).astype(np.float32)


def _cross_entropy(logits: Floats, labels: npt.NDArray[np.int32]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]))
