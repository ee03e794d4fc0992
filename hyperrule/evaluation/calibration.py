"""Calibration of probabilities: temperature scaling, calibration error, and accuracy against coverage.

Source: Guo et al. 2017, arXiv 1706.04599: one temperature for all logits, 15 bins of equal width.
"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15
HOTTEST = 20.0  # 1 / 20 to 20: beyond, probabilities are all alike or all certain
FITTED_ON_AT_MOST = 5_000  # images: one number needs no more

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

    `before` and `after` are of the test images. Where the temperature is fitted on those, `after` is as honest as
    `before`: each half gets the temperature that the other decides on, which may be none.
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
    """Fit on the validation examples' logits and labels, or, without them, on the test examples' `logits`
    [N, classes] and `labels` [N]; both judged on the latter, of which none has a say in whether its own logits are
    scaled. Where the halves of the test do not agree, the temperature is half as far from 1, in logarithms.
    """
    if validation is not None:
        temperature = _decided(*validation)
        scaled = logits / temperature
    else:
        pairs = np.arange(len(labels)) // 2 % 2  # of every class: they are sorted
        halves = [np.flatnonzero(pairs == half) for half in (0, 1)]
        decided = [_decided(logits[half], labels[half]) for half in halves]
        scaled = logits.copy()
        for half, of_the_other in zip(halves, reversed(decided), strict=True):
            scaled[half] /= of_the_other
        temperature = float(fit_temperature(logits, labels) ** np.mean([one != 1 for one in decided]))
    return TemperatureScaling(
        temperature=temperature,
        fitted_on="test" if validation is None else "validation",
        examples=len(labels if validation is None else validation[1]),
        before=reliability(logits, labels),
        after=reliability(scaled, labels),
    )


def _decided(logits: Floats, labels: Labels) -> float:
    """The temperature that is fitted, or 1 where one of the least cross-entropy would make the calibration error
    larger: a few confident mistakes can do that. It is tried crosswise, on each half that of the other."""
    scaled = logits.copy()
    halves = [np.arange(start, len(labels), 2) for start in (0, 1)]
    for half, other in (halves, halves[::-1]):
        scaled[half] /= fit_temperature(logits[other], labels[other])
    helps = reliability(scaled, labels).ece < reliability(logits, labels).ece
    return fit_temperature(logits, labels) if helps else 1.0


def reliability(logits: Floats, labels: Labels) -> Reliability:
    """Measure the calibration of softmax(logits), float32 [N, classes], against labels int32 [N]."""
    logs = log_softmax(logits.astype(np.float64), axis=1)
    losses = -logs[np.arange(len(labels)), labels]
    return judged(np.exp(logs.max(axis=1)), logs.argmax(axis=1) == labels, float(np.mean(losses)))


def judged(scores: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], loss: float) -> Reliability:
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
    """Return coverage and accuracy with every score, float32 [N], as the threshold, highest first.

    `correct` is bool [N].
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
