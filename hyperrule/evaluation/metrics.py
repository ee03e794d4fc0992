"""Metrics from logits and labels, accumulated batch by batch.

Only a few numbers are kept of each example, since the logits of a large data set may not fit into memory.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hyperrule.evaluation.calibration import Reliability, TemperatureScaling, reliability_of_scores
from hyperrule.planning.finetune_plan import Plan

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

WRONG = -1  # the predicted class where a logit is NaN
NOT_SEEN = -1  # the rank of an example that was not added
AT_ONCE = 4_096  # examples whose logits are in memory as float64


class Tally:
    """Accumulates metrics of N examples with the labels `truth`, int64 [N].

    For each example: `ranks` int64 [N] (the number of classes before the true one), `losses` float64 [N] in nats,
    `predicted` int64 [N], and `scores` float64 [N] (the probabilities of the predicted classes). Metrics cover the
    examples added so far, and need at least one.
    """

    def __init__(self, truth: Labels) -> None:
        self.truth = truth
        self.ranks = np.full(len(truth), NOT_SEEN)
        self.losses = np.zeros(len(truth))
        self.predicted = np.full(len(truth), WRONG)
        self.scores = np.zeros(len(truth))

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        seen: npt.NDArray[np.bool_] = self.ranks != NOT_SEEN
        return seen

    def add(self, indices: Labels, logits: Logits) -> None:
        """Add examples: `logits` float32 [M, classes] of those at `indices`, int64 [M]."""
        labels = self.truth[indices]
        with np.errstate(invalid="ignore"):
            logs = log_softmax(logits.astype(np.float64), axis=1)
        self.ranks[indices] = ranks_of(logits, labels)
        self.losses[indices] = -logs[np.arange(len(labels)), labels]
        self.predicted[indices] = np.where(np.isnan(logits).any(axis=1), WRONG, logits.argmax(axis=1))
        self.scores[indices] = np.exp(logs.max(axis=1))

    def top(self, most: int) -> float:
        """Return the top-`most` accuracy, from 0 to 1."""
        return float(np.mean(self.ranks[self.seen] < most))

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return float(self.losses[self.seen].mean())

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have examples."""
        return float(self.by_class(np.unique(self.truth[self.seen]))[1].mean())

    def by_class(self, classes: Labels) -> tuple[Values, Values, Values, Labels]:
        """Return precision, recall and F1, float64 [K] each, and examples, int64 [K], of `classes`, int64 [K].

        A ratio with denominator 0 is 0.
        """
        precision, recall, f1, examples = precision_recall_fscore_support(
            self.truth[self.seen], self.predicted[self.seen], labels=classes, zero_division=0.0
        )
        return precision, recall, f1, examples

    def confusion(self, classes: int) -> tuple[tuple[int, ...], ...]:
        """Return the confusion matrix: row i, column j counts examples of class i predicted as class j."""
        seen = self.seen
        matrix = confusion_matrix(self.truth[seen], self.predicted[seen], labels=range(classes))
        return tuple(map(tuple, matrix.tolist()))

    def reliability(self) -> Reliability:
        """Return the calibration of the scores, without examples whose scores are not finite."""
        scored = self.seen & np.isfinite(self.scores)
        return reliability_of_scores(self.scores[scored], self.ranks[scored] == 0, self.loss)


def ranks_of(logits: Logits, labels: Labels) -> Labels:
    """Return the number of classes ranked before the true one, int64 [N].

    `logits` are float32 [N, classes], `labels` int64 [N]. Of equal logits the first ranks higher, as with argmax. A NaN
    ranks before the true class; a true class with NaN ranks last.
    """
    true = logits[np.arange(len(labels)), labels][:, np.newaxis]
    behind = (logits < true) | ((logits == true) & (np.arange(logits.shape[1]) >= labels[:, np.newaxis]))
    ranks: Labels = (~behind).sum(axis=1)
    return ranks


class ClassMetrics(BaseModel):
    """Metrics of one class, from 0 to 1. A ratio with denominator 0 is 0."""

    model_config = ConfigDict(frozen=True)

    name: str
    examples: int
    precision: float
    recall: float
    f1: float


class Kept(BaseModel):
    """Whether the result is the network at the `end` of training or at its `start`, a probe on the backbone.

    The smaller cross-entropy on `examples` images of `judged_on` decides: `start_loss` or `end_loss`, in nats;
    `start_top1` and `end_top1` are the accuracies on them.
    """

    model_config = ConfigDict(frozen=True)

    kept: Literal["start", "end"]
    judged_on: str
    examples: int
    start_loss: float
    end_loss: float
    start_top1: float
    end_top1: float

    def __str__(self) -> str:
        figures = (
            f"from the probe to the end of training, the loss on {self.examples} {self.judged_on} went from "
            f"{self.start_loss:.3f} to {self.end_loss:.3f}, accuracy from {self.start_top1:.1%} to {self.end_top1:.1%}"
        )
        return f"{figures}, so {'the trained network' if self.kept == 'end' else 'the probe'} is the result"


class Metrics(BaseModel):
    """Metrics over all examples. Accuracies are fractions; the loss is in nats, without temperature scaling.

    `balanced_accuracy` is the mean recall of the classes that have examples. `confusion[i][j]` counts examples of class
    i predicted as class j. `calibration` describes the probabilities.
    """

    model_config = ConfigDict(frozen=True)

    examples: int
    top1: float
    balanced_accuracy: float
    top5: float
    loss: float
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: TemperatureScaling | None = None
    kept: Kept | None = None


def compute_metrics(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], class_names: tuple[str, ...]
) -> Metrics:
    """Compute metrics of logits float32 [N, classes] against labels int32 [N], N > 0. Top-5 of up to 5 classes is 1."""
    tally = Tally(labels.astype(np.int64))
    for start in range(0, len(labels), AT_ONCE):
        part = np.arange(start, min(start + AT_ONCE, len(labels)))
        tally.add(part, logits[part])
    return Metrics(
        examples=len(labels),
        top1=tally.top(1),
        balanced_accuracy=tally.balanced_accuracy,
        top5=tally.top(5),
        loss=tally.loss,
        per_class=tuple(
            ClassMetrics(name=name, examples=int(n), precision=float(p), recall=float(r), f1=float(f))
            for name, p, r, f, n in zip(class_names, *tally.by_class(np.arange(len(class_names))), strict=True)
        ),
        confusion=tally.confusion(len(class_names)),
    )


def headline(plan: Plan, metrics: Metrics) -> str:
    """Return the main metrics in one line."""
    correct = sum(row[index] for index, row in enumerate(metrics.confusion))
    balanced = f", balanced {metrics.balanced_accuracy:.2%}" if plan.balance.value != "none" else ""
    return (
        f"{plan.test_split.value} accuracy {metrics.top1:.2%} ({correct} of {metrics.examples}){balanced}, "
        f"top-5 {metrics.top5:.2%}, loss {metrics.loss:.4f}"
    )
