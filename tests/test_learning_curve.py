"""`hyperrule learning-curve`: what it measures, what it forecasts, and when it makes no forecast."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pages import Page
from PIL import Image
from scipy.optimize import curve_fit

import hyperrule
from hyperrule.audit.learning_curve.curve import LearningCurve, answer
from hyperrule.audit.learning_curve.extrapolate import fit, look_ahead, power_law
from hyperrule.audit.learning_curve.measure import SEEDS, SubsetAccuracies, halved, measure
from hyperrule.cli import main
from hyperrule.data.images import Examples
from hyperrule.data.selection import few_shot, nested_subset
from hyperrule.support.progress import Reporter

QUIET = Reporter(quiet=True)


def blobs(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = (np.arange(examples) % 3).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(3, 20))
    noise = 3 * np.random.default_rng(seed).normal(size=(examples, 20))
    return (centres[labels] + noise).astype(np.float32), labels


def measured_as(top1: list[float], examples: int = 1000, spread: float = 0.004) -> SubsetAccuracies:
    """Sizes that double, whose subsets have about these accuracies; who gets an image right goes on to."""
    rng = np.random.default_rng(0)
    order = rng.permutation(examples)
    rows = [[order < (accuracy + spread * rng.normal()) * examples for _ in range(SEEDS)] for accuracy in top1]
    rows[-1] = [order < top1[-1] * examples] * SEEDS
    return SubsetAccuracies(10 * 2 ** np.arange(len(top1)), np.array(rows))


def test_subsets_are_nested_and_stratified() -> None:
    labels = np.repeat([0, 1, 2], [40, 9, 1]).astype(np.int32)
    sizes = halved(np.bincount(labels))
    assert [part.tolist() for part in sizes][-2:] == [[20, 4, 1], [40, 9, 1]]
    for seed in range(3):
        chosen = [nested_subset(labels, counts, seed) for counts in sizes]
        assert all(set(small) <= set(large) for small, large in pairwise(chosen))
        assert [np.bincount(labels[part]).tolist() for part in chosen] == [counts.tolist() for counts in sizes]
    assert set(nested_subset(labels, sizes[0], 0)) != set(nested_subset(labels, sizes[0], 1))


def test_a_subset_is_the_few_shot_draw_of_the_same_seed() -> None:
    labels = np.tile([0, 1, 2], 9).astype(np.int32)
    for seed in range(3):
        drawn = [
            np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == label)) for label in range(3)
        ]
        expected = sorted(np.concatenate([members[:4] for members in drawn]).tolist())
        assert few_shot(labels, ("a", "b", "c"), 4, seed).tolist() == expected
        assert nested_subset(labels, np.array([4, 4, 4]), seed).tolist() == expected


def test_more_labels_measure_better() -> None:
    measured = measure(blobs(96, 1), blobs(600, 2), 3, QUIET)
    assert measured.labels.tolist() == [3, 6, 12, 24, 48, 96]
    assert measured.correct.shape == (6, SEEDS, 600)
    top1 = measured.top1.mean(axis=1)
    assert top1[0] < top1[2] < top1[-1]
    assert np.ptp(measured.top1[-1]) == 0


@pytest.mark.parametrize("law", [(0.9, 0.15, 0.6), (1.0, 0.3, 0.2), (0.5, 0.1, 1.0), (0.8, 0.0, 0.05)])
def test_fit_recovers_a_power_law(law: tuple[float, float, float]) -> None:
    n = np.array([1 / 8, 1 / 4, 1 / 2, 1])
    accuracies = np.stack([power_law(n, *law), np.array([0.1, 0.5, 0.8, 1.0])])
    found = fit(n, accuracies, np.full(4, 0.01))
    assert found.shape == (3, 2)
    assert found[:, 0] == pytest.approx(law, abs=0.01)
    assert found[0, 1] == 1


def test_fit_is_least_squares_as_scipy_finds_them() -> None:
    n, sigma = np.array([1 / 8, 1 / 4, 1 / 2, 1]), np.array([0.02, 0.01, 0.008, 0.006])
    accuracy = np.array([0.61, 0.69, 0.74, 0.79])
    bounds = ((0.0, 0.0, 0.05), (1.0, 10.0, 2.0))
    reference = curve_fit(power_law, n, accuracy, (0.9, 0.1, 0.5), sigma, bounds=bounds)[0]
    for times in (2.0, 4.0):
        expected = power_law(np.array(times), *reference)
        assert power_law(np.array(times), *fit(n, accuracy, sigma)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("top1", "verdict"),
    [
        ([0.3, 0.45, 0.57, 0.66, 0.73, 0.78], "more labels help"),
        ([0.5, 0.74, 0.79, 0.796, 0.799, 0.8], "hardly"),
        ([0.1] * 6, "flat"),
        ([0.3, 0.7, 0.9, 0.97, 0.99, 0.999], "saturated"),
        ([0.3, 0.3, 0.4, 0.7, 0.5, 0.8], "poor fit"),
        ([0.3, 0.4, 0.5], "too few labels"),
    ],
)
def test_verdicts(top1: list[float], verdict: str) -> None:
    outlook = look_ahead(measured_as(top1))
    assert outlook.verdict == verdict
    foretells = verdict in ("more labels help", "hardly")
    assert bool(outlook.expected) == foretells == (outlook.law is not None)
    for one in outlook.expected:
        assert one.low <= one.top1 <= one.high
        assert one.gain_low < one.gain_high


def test_the_curve_goes_on_as_it_was() -> None:
    law = (0.92, 0.12, 0.5)
    measured = measured_as([float(power_law(np.array(2.0**-k), *law)) for k in range(7, -1, -1)], spread=0.0)
    outlook = look_ahead(measured)
    for one in outlook.expected:
        assert one.top1 == pytest.approx(power_law(np.array(one.times), *law), abs=0.01)
        assert one.labels == one.times * measured.labels[-1]
    assert outlook.back_test is not None
    assert outlook.back_test.foretold == pytest.approx(outlook.back_test.measured, abs=0.02)


def pixels(info: object, examples: Examples, size: int, reporter: object) -> np.ndarray:
    """Features that need no network: 8 x 8 grey pixels."""
    images = (Image.open(io.BytesIO(encoded)).convert("L").resize((8, 8)) for encoded in examples.encoded())
    return np.array([np.asarray(image).ravel() for image in images], np.float32)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["learning-curve", *map(str, arguments)])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    page = tmp_path_factory.mktemp("curve") / "curve.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperrule.evaluation.features.features_of", pixels)
        return run("--dataset", "digits", "--size", 32, "--json", "--html", page), page


def test_digits(digits: tuple[Result, Path]) -> None:
    result, _ = digits
    assert result.exit_code == 0, result.stderr
    curve = LearningCurve.model_validate(json.loads(result.stdout))
    assert (curve.size, curve.split, curve.classes, curve.examples) == (32, "test", 10, 359)
    assert [point.labels for point in curve.points][-1] == 1438
    assert [point.subsets for point in curve.points] == [SEEDS] * (len(curve.points) - 1) + [1]
    assert curve.points[-1].top1 > 0.85
    assert curve.expected
    assert answer(curve).count("%") >= 1


def test_page_says_what_was_found(digits: tuple[Result, Path]) -> None:
    result, file = digits
    page = Page(file.read_text(encoding="utf-8"))
    said = " ".join(page.texts.values())
    curve = LearningCurve.model_validate(json.loads(result.stdout))
    assert answer(curve) in said.replace("\n", " ")
    assert "1,438" in said
    assert len(page.svgs) == 1
    assert "script" not in page.tags


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--size", 8], "size must be from 32 to 4096"),
        (["--backbone", "bit-r26"], "bit-r26"),
        (["--html", "missing/curve.html"], "there is no folder missing"),
        (["--html", "."], "it is a folder"),
    ],
)
def test_mistakes(arguments: list[object], why: str) -> None:
    result = run("--dataset", "digits", *arguments)
    assert result.exit_code == 2
    assert why in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_one_class(image_folder: Path) -> None:
    (image_folder / "warm").rename(image_folder.parent / "away")
    result = run("--dataset", image_folder)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "one class only" in result.stderr


def test_few_images_are_measured_but_not_drawn_on(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperrule.evaluation.features.features_of", pixels)
    for file in sorted(image_folder.rglob("0[5-9].jpg")):
        file.unlink()
    curve = hyperrule.learning_curve(image_folder, quiet=True)
    assert (curve.verdict, curve.expected, curve.law) == ("too few labels", (), None)
    assert "Too few labels to tell" in answer(curve)
