"""`hyperrule label-errors`: flipped labels are found, equal images never vouch for each other."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pages import Page
from PIL import Image

import hyperrule
from hyperrule.audit.label_errors import LabelErrors, deal, left_out_probabilities, rank
from hyperrule.cli import main
from hyperrule.data.images import Examples
from hyperrule.support.progress import Reporter

QUIET = Reporter(quiet=True)


def blobs(examples: int = 300, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (np.arange(examples) % 3).astype(np.int32)
    return (apart * np.eye(3, 16)[labels] * 2 + rng.normal(size=(examples, 16))).astype(np.float32), labels


def judged(x: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    return left_out_probabilities(x, labels, 3, np.arange(len(x)) if groups is None else groups, QUIET)


def test_parts_are_stratified_and_equal_images_stay_together() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 5]).astype(np.int32)
    groups = np.arange(75)
    groups[10:14] = 10
    groups[55] = 3  # an image of class 1 equals one of class 0
    folds = deal(labels, groups, 5, seed=0)
    assert set(folds) == set(range(5))
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    apart = deal(labels, np.arange(75), 5, seed=0)
    assert [np.bincount(apart[labels == label]).tolist() for label in range(3)] == [[10] * 5, [4] * 5, [1] * 5]
    assert not np.array_equal(apart, deal(labels, np.arange(75), 5, seed=1))


def test_a_label_and_its_equals_do_not_vouch_for_themselves() -> None:
    x, labels = blobs()
    x[8] = x[9] = x[7]
    groups = np.arange(300)
    groups[7:10] = 7
    before = judged(x, labels, groups)
    changed = labels.copy()
    changed[7:10] = (labels[7:10] + 1) % 3
    after = judged(x, changed, groups)
    assert before.sum(axis=1) == pytest.approx(1)
    assert after[7:10] == pytest.approx(before[7:10], abs=0.01)  # the temperature has changed, no more
    assert np.abs(after[10:] - before[10:]).max() > 0.02


def test_probabilities_are_calibrated() -> None:
    x, labels = blobs(600, apart=0.7)
    probabilities = judged(x, labels)
    right = probabilities.argmax(axis=1) == labels
    assert probabilities.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.04)
    assert 0.6 < right.mean() < 0.95


def test_flipped_labels_come_first_and_stand_out() -> None:
    x, labels = blobs()
    flipped = np.random.default_rng(1).permutation(300)[:15]
    noisy = labels.copy()
    noisy[flipped] = (labels[flipped] + 1) % 3
    ranking = rank(judged(x, noisy), noisy, np.ones(300, np.bool_))
    assert len(set(ranking.order[:15]) & set(flipped)) >= 13
    assert 10 <= ranking.suspected <= 25


def test_right_labels_hardly_stand_out() -> None:
    x, labels = blobs(apart=1.0)
    ranking = rank(judged(x, labels), labels, np.ones(300, np.bool_))
    assert len(ranking.order) >= 10
    assert ranking.suspected <= 3


def colours(info: object, examples: Examples, size: int, reporter: object) -> np.ndarray:
    """Features that need no network: mean colours."""
    images = (Image.open(io.BytesIO(encoded)) for encoded in examples.encoded())
    return np.array([np.asarray(image).mean((0, 1)) for image in images], np.float32)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["label-errors", *map(str, arguments)])


@pytest.fixture
def mislabelled(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A warm image lies among the cold."""
    monkeypatch.setattr("hyperrule.evaluation.features.features_of", colours)
    (image_folder / "warm/03.jpg").rename(image_folder / "cold/<b>wrong.jpg")
    return image_folder


def test_files_and_what_finetune_makes_of_them(mislabelled: Path, tmp_path: Path) -> None:
    out, table, page = (tmp_path / name for name in ("out.csv", "suspects.csv", "page.html"))
    before = tmp_path / "before.csv"
    before.write_text("id,reason\nwarm/00.jpg,blurred\n")
    result = run("--dataset", mislabelled, "--top", 1, "--write-exclusions", out, "--csv", table, "--html", page)
    assert result.exit_code == 0, result.stderr
    assert "cold/<b>wrong.jpg" in result.stdout
    (row,) = csv.DictReader(table.open())
    assert (row["id"], row["label"], row["likelier"]) == ("cold/<b>wrong.jpg", "cold", "warm")
    assert float(row["score"]) > 0.5
    shown = Page(page.read_text(encoding="utf-8"))
    assert "b" not in shown.tags
    assert "script" not in shown.tags
    assert "cold/<b>wrong.jpg" in shown.values("title")
    assert sum(value.startswith("data:image/jpeg") for value in shown.values("src")) == 1
    plan = hyperrule.plan(dataset=mislabelled, exclude=out)
    assert sum(split.examples for split in plan.dataset.splits.values()) == 19
    assert run("--dataset", mislabelled, "--top", 1, "--exclude", before, "--write-exclusions", out).exit_code == 0
    assert {row["id"]: row["reason"][:11] for row in csv.DictReader(out.open())} == {
        "warm/00.jpg": "left out be",
        "cold/<b>wrong.jpg": "labelled co",
    }


def test_which_images_are_judged(mislabelled: Path, tmp_path: Path) -> None:
    assert hyperrule.label_errors(mislabelled, quiet=True).splits == ("train", "test")
    assert hyperrule.label_errors(mislabelled, split="train", quiet=True).images == 16
    for split in ("train", "test"):
        shutil.copytree(mislabelled, tmp_path / "split" / split)
    found = hyperrule.label_errors(tmp_path / "split", quiet=True)
    assert (found.splits, found.images) == (("train",), 20)
    assert hyperrule.label_errors(tmp_path / "split", split="all", quiet=True).images == 40


def test_an_image_alone_in_its_class_is_not_judged(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperrule.evaluation.features.features_of", colours)
    (image_folder / "odd").mkdir()
    Image.new("RGB", (20, 24)).save(image_folder / "odd/0.png")
    shutil.copy(image_folder / "odd/0.png", image_folder / "odd/1.png")
    found = hyperrule.label_errors(image_folder, top=100, quiet=True)
    assert found.not_judged == ("odd",)
    assert "odd" not in {suspect.label for suspect in found.suspects}


def test_features_of_a_backbone(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path))
    result = run("--dataset", image_folder, "--size", 32, "--json")
    assert result.exit_code == 0, result.stderr
    found = LabelErrors.model_validate(json.loads(result.stdout))
    assert (found.images, found.size, found.splits) == (20, 32, ("train", "test"))
    assert found.accuracy > 0.7
    assert len(found.suspects) == found.suspected < 4
    with pytest.raises(ValueError, match=r"hyperrule\.label_errors"):
        found.write_page(tmp_path / "page.html")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--top", 0], "top must be at least 1"),
        (["--split", "dev"], "split must be train, validation, test or all"),
        (["--split", "validation"], "has no images for validation"),
        (["--csv", "missing/x.csv"], "--csv missing/x.csv cannot be written"),
        (["--write-exclusions", "."], "it is a folder"),
        (["--backbone", "nothing-r50"], "nothing-r50"),
    ],
)
def test_mistakes(arguments: list[object], why: str) -> None:
    result = run("--dataset", "digits", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr.splitlines()[-1]


def test_too_few_images(image_folder: Path) -> None:
    for file in sorted(image_folder.rglob("*.jpg")):
        if file.stem not in ("00", "01"):
            file.unlink()
    result = run("--dataset", image_folder, "--split", "test")
    assert result.exit_code == 2
    assert "too few images in test" in result.stderr
