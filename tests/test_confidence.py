"""Temperature, calibration error and coverage, against their definitions."""

import numpy as np
import pytest
from scipy.special import softmax

from hyperrule.evaluation.calibration import coverages, fit_temperature, reliability, scale_temperature


def drawn(examples: int, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth: labels are drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (examples, classes)).astype(np.float32)
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.uniform(size=(examples, 1))).sum(axis=1)
    return logits, labels.astype(np.int32)


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    logits, labels = drawn(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_a_classifier_without_errors_is_not_certain() -> None:
    few, many = (fit_temperature(np.tile(np.eye(3, dtype=np.float32), (n, 1)), np.tile([0, 1, 2], n)) for n in (2, 50))
    assert 0.05 < many < few < 1  # the more images say so, the more it is believed


@pytest.mark.parametrize(("logits", "labels"), [(np.zeros((0, 3)), []), (np.zeros((4, 1)), [0] * 4)])
def test_nothing_to_fit_leaves_the_logits_alone(logits: np.ndarray, labels: list[int]) -> None:
    assert fit_temperature(logits, np.array(labels, np.int32)) == 1.0


def test_calibration_error_counted_by_hand() -> None:
    # Scores of 0.9 (three, two right) and 0.6 (one, wrong).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    found = reliability(np.log(probabilities).astype(np.float32), np.array([0, 0, 0, 1], np.int32))
    assert found.ece == pytest.approx((3 * abs(0.9 - 2 / 3) + 0.6) / 4, abs=1e-6)
    assert found.loss == pytest.approx(-np.mean(np.log([0.9, 0.9, 0.1, 0.4])), abs=1e-6)
    assert [(one.examples, round(one.accuracy, 3)) for one in found.bins if one.examples] == [(1, 0.0), (3, 0.667)]
    assert sum(one.examples for one in found.bins) == 4


def test_scaling_judges_each_half_by_the_other() -> None:
    logits, labels = drawn(2_000)
    honest = scale_temperature(3 * logits, labels, None)
    assert (honest.fitted_on, honest.examples) == ("test", 2_000)
    assert honest.after.ece < 0.5 * honest.before.ece
    logits[::2] *= 3  # each half wants another temperature, and gets the wrong one
    refused = scale_temperature(logits, labels, None)
    assert refused.temperature == 1
    assert refused.after == refused.before
    by_validation = scale_temperature(3 * logits[1::2], labels[1::2], (3 * logits[1::2], labels[1::2]))
    assert by_validation.fitted_on == "validation"
    assert by_validation.temperature == pytest.approx(3, rel=0.15)
    assert by_validation.after.ece < 0.5 * by_validation.before.ece


def test_no_label_decides_whether_its_own_logits_are_scaled() -> None:
    logits, labels = drawn(2_000)
    quarter = np.arange(2_000) % 4
    half = quarter < 2
    logits[quarter != 1] *= 3  # of one half, each quarter wants another temperature; all of the other wants 3
    found = scale_temperature(logits, labels, None)
    third = fit_temperature(logits[~half], labels[~half])
    assert third == pytest.approx(3, rel=0.1)
    assert found.after == reliability(logits / np.where(half, third, 1).astype(np.float32)[:, None], labels)
    assert found.temperature == pytest.approx(fit_temperature(logits, labels) ** 0.5)
    # Other labels there change what the other half gets, and not what is done to themselves.
    labels[half] = logits[half].argmax(axis=1)
    found = scale_temperature(logits, labels, None)
    cold = fit_temperature(logits[half], labels[half])
    assert cold < 1
    assert found.after == reliability(logits / np.where(half, third, cold).astype(np.float32)[:, None], labels)


def test_scores_that_are_right_are_not_made_to_look_better() -> None:
    found = [scale_temperature(*drawn(300, seed=seed), None) for seed in range(40)]
    gains = [one.before.ece - one.after.ece for one in found]
    assert min(gains) < 0
    assert np.mean(gains) < 0.001


def test_coverage_grows_as_the_threshold_falls() -> None:
    found = coverages(np.array([0.5, 0.9, 0.9, 0.7], np.float32), np.array([False, True, False, True]))
    rows = [(round(one.threshold, 3), one.coverage, round(one.accuracy, 3)) for one in found]
    assert rows == [(0.9, 0.5, 0.5), (0.7, 0.75, 0.667), (0.5, 1.0, 0.5)]
