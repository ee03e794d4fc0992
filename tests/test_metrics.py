"""Figures of merit against scikit-learn's, added up batch by batch, and of logits that are equal or no numbers."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    confusion_matrix,
    log_loss,
    top_k_accuracy_score,
)

from hyperrule.evaluation import metrics
from hyperrule.evaluation.calibration import reliability
from hyperrule.evaluation.metrics import Tally, compute_metrics, ranks_of

NAMES = tuple("abcdefghi")


def answers(examples: int, classes: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels of all classes but the last."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (examples, classes)).astype(np.float32)
    return logits, rng.integers(0, classes - 1, examples).astype(np.int32)


@pytest.mark.parametrize("at_once", [metrics.AT_ONCE, 70])
def test_figures_are_those_of_scikit_learn(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "AT_ONCE", at_once)
    logits, labels = answers(500)
    found, predicted = compute_metrics(logits, labels, NAMES), logits.argmax(axis=1)
    assert (found.examples, found.top1) == (500, accuracy_score(labels, predicted))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found.top5 == top_k_accuracy_score(labels, logits, k=5, labels=range(9))
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert found.loss == pytest.approx(log_loss(labels, probabilities, labels=range(9)))
    assert np.array_equal(found.confusion, confusion_matrix(labels, predicted, labels=range(9)))
    report = classification_report(
        labels, predicted, labels=range(9), target_names=NAMES, output_dict=True, zero_division=0.0
    )
    for row in found.per_class:
        assert (row.precision, row.recall, row.f1, row.examples) == tuple(report[row.name].values())
    assert [row.name for row in found.per_class] == list(NAMES)


def test_of_five_classes_all_are_among_the_likeliest_five() -> None:
    assert compute_metrics(*answers(20, classes=5), NAMES[:5]).top5 == 1


def test_batches_add_up_to_the_figures_of_all() -> None:
    logits, labels = answers(500)
    tally = Tally(labels.astype(np.int64))
    for start in range(0, 490, 70):  # the last 10 never come
        tally.add(np.arange(start, start + 70), logits[start : start + 70])
    expected = compute_metrics(logits[:490], labels[:490], NAMES)
    assert (tally.top(1), tally.top(5), tally.loss) == (expected.top1, expected.top5, expected.loss)
    assert (tally.balanced_accuracy, tally.confusion(9)) == (expected.balanced_accuracy, expected.confusion)
    probable = reliability(logits[:490], labels[:490])
    found = tally.reliability()
    assert (found.ece, found.loss) == pytest.approx((probable.ece, probable.loss))
    assert [row.model_dump() for row in found.bins] == [pytest.approx(row.model_dump()) for row in probable.bins]
    assert tally.predicted[:490].tolist() == logits[:490].argmax(axis=1).tolist()
    assert tally.seen.sum() == 490
    tally.add(np.array([490]), np.full((1, 9), np.nan, np.float32))
    assert (tally.predicted[490], tally.ranks[490], tally.reliability().ece) == (-1, 9, found.ece)


def test_ranks_of_equal_and_broken_logits() -> None:
    logits = np.array([[1, 3, 3, 0], [1, 3, 3, 0], [np.nan] * 4, [np.inf, 0, 0, 0]], np.float32)
    assert ranks_of(logits, np.array([1, 2, 0, 0])).tolist() == [0, 1, 4, 0]
    logits, labels = answers(50)
    in_order = np.argsort(-logits, axis=1)
    assert ranks_of(logits, labels.astype(np.int64)).tolist() == [
        row.tolist().index(label) for row, label in zip(in_order, labels, strict=True)
    ]
