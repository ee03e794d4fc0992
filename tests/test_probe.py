"""The closed-form probe against scikit-learn, and its left-out scores against actual refits."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from hyperrule.evaluation.probe import CONSTANT_FEATURE, STD_EPSILON, fit_head, fit_probe, fit_probes


def blobs(examples: int, features: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (np.arange(examples) % classes).astype(np.int32)
    centres = rng.normal(size=(classes, features))
    return (centres[labels] + rng.normal(size=(examples, features)) + 5).astype(np.float32), labels


@pytest.mark.parametrize(("examples", "features"), [(60, 8), (12, 40)], ids=["N >= D", "D > N"])
def test_probe_is_ridge_on_whitened_features(examples: int, features: int) -> None:
    x, labels = blobs(examples, features)
    probe = fit_probe(x, labels, 3, l2=50.0)
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + STD_EPSILON

    def whitened(x: np.ndarray) -> np.ndarray:
        return np.concatenate([(x - mean) / std, np.full((len(x), 1), CONSTANT_FEATURE)], axis=1)

    targets = 2.0 * np.eye(3)[labels] - 1
    reference = Ridge(alpha=50.0, fit_intercept=False).fit(whitened(x), targets)
    assert probe.scores(x) == pytest.approx(reference.predict(whitened(x)), abs=1e-6)
    for left_out in (0, 5):
        kept = np.arange(examples) != left_out
        without = Ridge(alpha=50.0, fit_intercept=False).fit(whitened(x)[kept], targets[kept])
        assert probe.left_out_scores[left_out] == pytest.approx(without.predict(whitened(x[~kept]))[0], abs=1e-6)


@pytest.mark.parametrize(("examples", "features"), [(60, 8), (12, 40)], ids=["N >= D", "D > N"])
def test_equal_examples_are_left_out_together(examples: int, features: int) -> None:
    x, labels = blobs(examples, features)
    x[[3, 7]] = x[1]  # of three classes and twice of one
    groups = np.arange(examples)
    groups[[3, 7]] = 1
    (probe,) = fit_probes(x, labels, 3, [50.0], groups)
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + STD_EPSILON
    whitened = np.concatenate([(x - mean) / std, np.full((examples, 1), CONSTANT_FEATURE)], axis=1)
    for left_out in (1, 5):
        kept = groups != groups[left_out]
        without = Ridge(alpha=50.0, fit_intercept=False).fit(whitened[kept], 2.0 * np.eye(3)[labels[kept]] - 1)
        assert probe.left_out_scores[left_out] == pytest.approx(without.predict(whitened[[left_out]])[0], abs=1e-6)


def test_head_is_calibrated_and_as_accurate_as_logistic_regression() -> None:
    x, labels = blobs(300, 10)
    train, test = np.arange(300) < 200, np.arange(300) >= 200
    kernel, bias = fit_head(x[train], labels[train], 3)
    assert (kernel.dtype, kernel.shape, bias.shape) == (np.float32, (10, 3), (3,))
    logits = x[test] @ kernel + bias
    reference = LogisticRegression(max_iter=1000).fit(x[train], labels[train])
    assert np.mean(logits.argmax(axis=1) == labels[test]) >= reference.score(x[test], labels[test]) - 0.03
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence, accuracy = probabilities.max(axis=1).mean(), np.mean(logits.argmax(axis=1) == labels[test])
    assert confidence == pytest.approx(accuracy, abs=0.1)


def test_head_does_not_lean_on_a_feature_that_hardly_varies() -> None:
    """One that is active in a single image of the training, and somewhere else later."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 30))
    labels = (np.arange(60) % 3).astype(np.int32)
    x = (centres[labels] + rng.normal(size=(60, 30))).astype(np.float32)
    rare = np.zeros((60, 1), np.float32)
    rare[0] = 0.001
    kernel, bias = fit_head(np.hstack([x[:30], rare[:30]]), labels[:30], 3)
    assert np.abs(kernel[-1]).max() < np.abs(kernel).max()
    later = np.hstack([x[30:], rare[30:] + 0.1]) @ kernel + bias
    assert np.mean(later.argmax(axis=1) == labels[30:]) > 0.8
    probe = fit_probe(np.hstack([x[:30], rare[:30]]), labels[:30], 3)
    assert np.abs(probe.kernel[-1]).max() > 10 * np.abs(probe.kernel[:-1]).max()
