"""Figures of merit from logits and labels, by scikit-learn."""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from hyperrule.evaluation.calibration import TemperatureScaling
from hyperrule.planning.finetune import Plan


class ClassMetrics(BaseModel):
    """Figures of one class; a ratio without a denominator is 0."""

    model_config = ConfigDict(frozen=True)

    name: str
    examples: int
    precision: float
    recall: float
    f1: float


class Metrics(BaseModel):
    """Figures over all examples; accuracies and the rest are fractions, the loss is in nats.

    `balanced_accuracy` is the mean recall of the classes that have examples; `confusion[i][j]` counts examples of
    class i predicted as class j. The loss is that of the logits as trained; `calibration` tells of the probabilities.
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


def compute_metrics(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], class_names: tuple[str, ...]
) -> Metrics:
    """Metrics of logits [N, classes] against labels [N]. With 5 classes or fewer top-5 is 1."""
    every_class = np.arange(len(class_names))
    predicted = logits.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=every_class, zero_division=0.0
    )
    return Metrics(
        examples=len(labels),
        top1=float(np.mean(predicted == labels)),
        balanced_accuracy=float(recall[support > 0].mean()),
        top5=1.0 if len(class_names) <= 5 else float(top_k_accuracy_score(labels, logits, k=5, labels=every_class)),
        loss=float(-np.mean(log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels])),
        per_class=tuple(
            ClassMetrics(name=name, examples=int(n), precision=float(p), recall=float(r), f1=float(f))
            for name, n, p, r, f in zip(class_names, support, precision, recall, f1, strict=True)
        ),
        confusion=tuple(tuple(row) for row in confusion_matrix(labels, predicted, labels=every_class).tolist()),
    )


def headline(plan: Plan, metrics: Metrics) -> str:
    """One line: accuracy, as a percentage and as a count."""
    correct = sum(row[index] for index, row in enumerate(metrics.confusion))
    balanced = f", balanced {metrics.balanced_accuracy:.2%}" if plan.balance.value != "none" else ""
    return (
        f"{plan.test_split.value} accuracy {metrics.top1:.2%} ({correct} of {metrics.examples}){balanced}, "
        f"top-5 {metrics.top5:.2%}, loss {metrics.loss:.4f}"
    )
