"""Calibration of probabilities: temperature scaling, calibration error, and accuracy against coverage.

Source: Guo et al. 2017, arXiv 1706.04599: one temperature for all logits, 15 bins of equal width.
"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15
HOTTEST = 20.0  # temperatures are 1 / 20 to 20; beyond, probabilities are all nearly equal or all nearly 0 or 1
FITTED_ON_AT_MOST = 5_000  # images; enough to fit one number

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


class Bin(BaseModel):
    """The examples whose score (the highest probability) is above `low` and at most `high`.

    `examples` is their number, `score` and `accuracy` are their means, 0 for an empty bin.
    """

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    examples: int
    score: float
    accuracy: float


class Reliability(BaseModel):
    """Calibration on a set of examples.

    `ece` is the expected calibration error: the mean distance between score and accuracy over the bins, weighted by
    their examples. `loss` is the cross-entropy in nats.
    """

    model_config = ConfigDict(frozen=True)

    ece: float
    loss: float
    bins: tuple[Bin, ...]


class TemperatureScaling(BaseModel):
    """Probabilities are softmax(logits / temperature), the temperature fitted on `examples` images of `fitted_on`.

    `before` and `after` are measured on the test images. If the temperature is fitted on these, too, `after` is
    cross-fitted: each half is scaled by the temperature chosen on the other half, which may be 1.
    """

    model_config = ConfigDict(frozen=True)

    temperature: float
    fitted_on: str
    examples: int
    before: Reliability
    after: Reliability


class Coverage(BaseModel):
    """If only scores of at least `threshold` are accepted: the fraction of such examples, and their accuracy."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    coverage: float
    accuracy: float


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Return the temperature from 0.05 to 20 that minimises the cross-entropy.

    `logits` are float32 [N, classes], `labels` int32 [N]. Targets are smoothed to (N + 1) / (N + 2); otherwise a
    classifier without an error would become certain (Platt 1999).
    """
    count, classes = logits.shape
    if count == 0 or classes == 1:
        return 1.0
    rest = 1 / ((count + 2) * (classes - 1))
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        logs = log_softmax(wide / np.exp(log_temperature), axis=1)
        true = logs[np.arange(count), labels]
        return float(-np.mean((1 - classes * rest) * true + rest * logs.sum(axis=1)))

    bounds = (-np.log(HOTTEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def scale_temperature(logits: Floats, labels: Labels, validation: tuple[Floats, Labels] | None) -> TemperatureScaling:
    """Fit a temperature, and measure calibration before and after on the test examples.

    `logits` are float32 [N, classes] and `labels` int32 [N] of the test examples. The temperature is fitted on the
    `validation` logits and labels, if given. Otherwise it is fitted on the test examples and measured by cross-fitting,
    so no example influences the scaling of its own logits. If scaling helps on only one half, the logarithm of the
    temperature is halved; if it helps on neither, the temperature is 1.
    """
    if validation is not None:
        temperature = _temperature_if_it_helps(*validation)
        scaled = logits / temperature
    else:
        pairs = np.arange(len(labels)) // 2 % 2  # examples are sorted by class, so each half has all classes
        halves = [np.flatnonzero(pairs == half) for half in (0, 1)]
        fitted = [_temperature_if_it_helps(logits[half], labels[half]) for half in halves]
        scaled = logits.copy()
        for half, of_the_other in zip(halves, reversed(fitted), strict=True):
            scaled[half] /= of_the_other
        temperature = float(fit_temperature(logits, labels) ** np.mean([one != 1 for one in fitted]))
    return TemperatureScaling(
        temperature=temperature,
        fitted_on="test" if validation is None else "validation",
        examples=len(labels if validation is None else validation[1]),
        before=reliability(logits, labels),
        after=reliability(scaled, labels),
    )


def _temperature_if_it_helps(logits: Floats, labels: Labels) -> float:
    """Return the fitted temperature, or 1 if scaling would not reduce the calibration error.

    The least cross-entropy can come with a larger calibration error, after a few confident mistakes. Tested by
    cross-fitting: each half is scaled by the temperature of the other.
    """
    scaled = logits.copy()
    halves = [np.arange(start, len(labels), 2) for start in (0, 1)]
    for half, other in (halves, halves[::-1]):
        scaled[half] /= fit_temperature(logits[other], labels[other])
    helps = reliability(scaled, labels).ece < reliability(logits, labels).ece
    return fit_temperature(logits, labels) if helps else 1.0


def reliability(logits: Floats, labels: Labels) -> Reliability:
    """Measure the calibration of softmax(logits) for logits float32 [N, classes] and labels int32 [N]."""
    logs = log_softmax(logits.astype(np.float64), axis=1)
    losses = -logs[np.arange(len(labels)), labels]
    return reliability_of_scores(np.exp(logs.max(axis=1)), logs.argmax(axis=1) == labels, float(np.mean(losses)))


def reliability_of_scores(scores: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], loss: float) -> Reliability:
    """Measure calibration from scores float64 [N] in [0, 1] and `correct` bool [N]; `loss` is stored as given."""
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.ceil(scores * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    mean_scores, accuracies = (
        np.bincount(place, values, BINS) / np.maximum(counts, 1) for values in (scores, correct.astype(np.float64))
    )
    return Reliability(
        ece=float(np.sum(counts * np.abs(mean_scores - accuracies)) / max(1, len(scores))),
        loss=loss,
        bins=tuple(
            Bin(low=float(low), high=float(high), examples=int(count), score=float(score), accuracy=float(accuracy))
            for low, high, count, score, accuracy in zip(
                edges[:-1], edges[1:], counts, mean_scores, accuracies, strict=True
            )
        ),
    )


def coverages(scores: Floats, correct: npt.NDArray[np.bool_]) -> list[Coverage]:
    """Return coverage and accuracy for every distinct score as the threshold, highest first.

    `scores` are float32 [N], `correct` bool [N].
    """
    if len(scores) == 0:
        return []
    order = np.argsort(-scores, kind="stable")
    kept = np.arange(1, len(scores) + 1)
    hits = np.cumsum(correct[order])
    last_of_equals = np.append(np.diff(scores[order]) < 0, True)
    return [
        Coverage(
            threshold=float(scores[order][i]), coverage=float(kept[i] / len(scores)), accuracy=float(hits[i] / kept[i])
        )
        for i in np.flatnonzero(last_of_equals)
    ]
