"""Released classifiers: predictions and accuracy against the network called directly, and refused requests."""

import importlib.util
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner, Result
from conftest import golden_array
from modules import Module, SmallNet
from PIL import Image
from sklearn.datasets import load_sample_images

import hyperrule
from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import HEAD, Arrays, read_arrays, write_arrays
from hyperrule.backbones.class_names import ClassName, class_names
from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.lite0.package import PACKAGE
from hyperrule.cli import main
from hyperrule.data.open import open_source
from hyperrule.data.preprocess import for_evaluation
from hyperrule.data.selection import Exclusions
from hyperrule.errors import BackboneError, DataError, RecipeError, UserError
from hyperrule.evaluation.calibration import reliability
from hyperrule.evaluation.label_matching import ClassIndex, match_folders
from hyperrule.evaluation.metrics import compute_metrics
from hyperrule.exporting.saved_model import export_saved_model
from hyperrule.prediction.formats import Card
from hyperrule.prediction.images import labelled_images
from hyperrule.prediction.predictions import Prediction
from hyperrule.prediction.released import ClassifierOptions, ReleasedClassifier, describe_classifier
from hyperrule.support.progress import Reporter
from hyperrule.training.classifier import Classifier, make_classifier

R26, R50 = Architecture(26, 0.5), Architecture(50, 1)
SIZE = 64
ONE_K = class_names("imagenet-1k")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BiT checkpoints with heads of 7, 1,000 and 21,843 classes, one without, and one with half a head."""
    folder = tmp_path_factory.mktemp("files")
    backbone = {name: golden_array(name, shape) for name, shape in R26.array_shapes.items()}
    for classes in (7, 1000, 21843):
        write_arrays(folder / f"{classes}.npz", {**backbone, **head_of(R26.features, classes)})
    write_arrays(folder / "features.npz", backbone)
    write_arrays(folder / "half.npz", {**backbone, f"{HEAD}bias": np.zeros(7, np.float32)})
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six parts of real photographs, in a folder of three class folders called in three ways."""
    folder = tmp_path_factory.mktemp("photographs")
    parts = [image[top : top + 200, :300] for image in load_sample_images().images for top in (0, 110, 220)]
    folders = ("n01440764", "n01443537_goldfish", "english_SPRINGER") * 2
    for index, (name, part) in enumerate(zip(folders, parts, strict=True)):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(part).save(folder / name / f"{index}.png")
    return folder


def head_of(features: int, classes: int) -> Arrays:
    rng = np.random.default_rng(classes)
    return {
        f"{HEAD}kernel": rng.normal(0, 0.1, (1, 1, features, classes)).astype(np.float32),
        f"{HEAD}bias": rng.normal(0, 0.1, classes).astype(np.float32),
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with 16 outputs."""
    folder = tmp_path_factory.mktemp("small") / "small"
    SmallNet().save(folder)
    return folder


def small_logits(images: list[Path]) -> np.ndarray:
    return SmallNet()(tf.stack([for_evaluation(path.read_bytes(), SIZE) for path in images])).numpy()


def images_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def direct_logits(checkpoint: Path, images: list[Path], classes: int) -> np.ndarray:
    """What the network of a BiT file says, without anything that is tested here."""
    classifier = make_classifier(describe_backbone(str(checkpoint)), classes)
    classifier.load(read_arrays(checkpoint))
    return classifier(tf.stack([for_evaluation(path.read_bytes(), SIZE) for path in images])).numpy()


def assert_scores(predictions: list[Prediction], scores: np.ndarray, top: int) -> None:
    """The `top` highest of `scores` [N, classes], in their order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    assert [[found.index for found in prediction.classes] for prediction in predictions] == order.tolist()
    found = [[found.score for found in prediction.classes] for prediction in predictions]
    np.testing.assert_allclose(found, np.take_along_axis(scores, order, axis=1), rtol=1e-3, atol=1e-6)


def describe(model: Path, **asked: Any) -> ReleasedClassifier:
    return describe_classifier(str(model), ClassifierOptions(**asked), Reporter(quiet=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    return tf.nn.softmax(logits).numpy()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="hyperrule")


def test_scores_are_those_of_the_classifier(files: Path, photographs: Path) -> None:
    images = images_in(photographs)
    predictions = hyperrule.predict(files / "7.npz", images, top=7, size=SIZE, quiet=True)
    assert_scores(predictions, softmax(direct_logits(files / "7.npz", images, 7)), 7)
    assert [prediction.image for prediction in predictions] == list(map(str, images))
    assert all(found.class_name == str(found.index) for found in predictions[0].classes)


def test_every_class_of_imagenet_21k_has_a_score_of_its_own(files: Path, photographs: Path) -> None:
    images = images_in(photographs)
    predictions = hyperrule.predict(files / "21843.npz", photographs, top=3, size=SIZE, quiet=True)
    logits = direct_logits(files / "21843.npz", images, 21843)
    best = [[found.index for found in prediction.classes] for prediction in predictions]
    assert best == np.argsort(-logits, axis=1, kind="stable")[:, :3].tolist()
    scores = [[found.score for found in prediction.classes] for prediction in predictions]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.take_along_axis(logits, np.array(best), 1))), rtol=1e-4)
    first = predictions[0].classes[0]
    assert class_names("imagenet-21k")[first.index] == (first.wnid, first.class_name)


@pytest.mark.parametrize(
    ("file", "classes", "expected"),
    [
        ("BiT-S-R50x1.npz", 1000, ("softmax", "tench", 224, True)),
        ("BiT-M-R50x1-ILSVRC2012.npz", 1000, ("softmax", "tench", 384, True)),
        ("R50x1_160.npz", 1000, ("softmax", "tench", 160, True)),
        ("BiT-M-R50x1.npz", 21843, ("sigmoid", "organism", 224, True)),
        ("BiT-M-R50x1.npz", 7, ("softmax", "0", 224, False)),
        ("BiT-S-R101x1.npz", 1000, ("softmax", "0", 224, False)),
        ("mine.npz", 21843, ("sigmoid", "organism", 224, False)),
        ("mine.npz", 1000, ("softmax", "0", 224, False)),
    ],
)
def test_a_file_of_the_bucket_is_known_by_its_name_if_it_is_like_it(
    tmp_path: Path, file: str, classes: int, expected: tuple[str, str, int, bool]
) -> None:
    shapes = {**R50.array_shapes, f"{HEAD}kernel": (1, 1, R50.features, classes), f"{HEAD}bias": (classes,)}
    with zipfile.ZipFile(tmp_path / file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w") as stream:  # of arrays that are never read, headers are enough
                np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    *facts, known = expected
    found = describe(tmp_path / file)
    assert [found.activation, found.class_names[0].name, found.size] == facts
    assert (found.note is None) == (known or classes == 21843)
    refused = pytest.raises(BackboneError, match="was trained with") if known else nullcontext()
    with refused:
        other = "sigmoid" if found.activation == "softmax" else "softmax"
        asked = describe(tmp_path / file, activation=other)
        assert asked.activation == other


def test_images_that_cannot_be_decoded_are_rows_and_the_others_are_predicted(
    small: Path, photographs: Path, tmp_path: Path
) -> None:
    good = images_in(photographs)
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "deep" / "circle").symlink_to(tmp_path)
    shutil.copy(good[0], tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(good[1].read_bytes()[:900])
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.JPG").write_text("text")
    shutil.copy(good[2], tmp_path / "deep" / "down" / os.fsdecode(b"\xff.png"))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    result = run("predict", small, tmp_path, good[3], "--size", SIZE, "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.jpg", "3.JPG", "\\xff.png", good[3].name]
    assert [len(row["predictions"]) for row in rows] == [5, 0, 0, 0, 5, 5]
    assert [row.get("error") for row in rows][2:4] == ["empty file", "not JPEG, PNG, GIF, BMP or WEBP, but text"]
    assert "truncated" in rows[1]["error"]
    logits = softmax(small_logits([good[0], good[2], good[3]]))
    scores = [row["predictions"][0]["score"] for row in rows if row["predictions"]]
    np.testing.assert_allclose(scores, logits.max(axis=1), rtol=1e-3)
    table = run("predict", small, tmp_path / "1.png", good[3], "--size", SIZE, "--top", "1")
    assert table.exit_code == 1
    lines = table.stdout.splitlines()
    assert (lines[0], lines[2]) == (str(tmp_path / "1.png"), str(good[3]))
    assert lines[1].startswith("  cannot be decoded: ")
    assert lines[3].split() == [f"{scores[2]:.2%}", str(rows[5]["predictions"][0]["index"])]


def test_figures_are_those_of_the_evaluation_after_training(small: Path, photographs: Path, tmp_path: Path) -> None:
    images = images_in(photographs)
    logits = small_logits(images)
    labels = np.argsort(-logits, axis=1)[range(6), [0, 0, 3, 6, 5, 1]].astype(np.int32)
    for label, image in zip(labels, images, strict=True):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / str(label))
    result = run("evaluate", small, "--dataset", tmp_path, "--size", SIZE, "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    expected = compute_metrics(logits, labels, tuple("0123456789abcdef"))
    assert (figures["examples"], figures["classes"], figures["split"]) == (6, 16, None)
    assert (figures["top1"], figures["top5"]) == (expected.top1, expected.top5) == (2 / 6, 4 / 6)
    assert figures["loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert figures["balanced_accuracy"] == pytest.approx(expected.balanced_accuracy)
    assert figures["confusion"] == [list(row) for row in expected.confusion]
    assert figures["class_names"] == [str(index) for index in range(16)]
    by_class = {known.name: known for known in expected.per_class}
    for row in figures["per_class"]:
        known = by_class[format(row["index"], "x")]
        found = [row[name] for name in ("examples", "precision", "recall", "f1", "top1")]
        assert found == pytest.approx([known.examples, known.precision, known.recall, known.f1, known.recall])
    judged = reliability(logits, labels)
    assert figures["reliability"]["ece"] == pytest.approx(judged.ece, abs=1e-5)
    assert [row["examples"] for row in figures["reliability"]["bins"]] == [row.examples for row in judged.bins]
    assert {row["folder"]: row["examples"] for row in figures["per_class"]} == {
        str(label): int(np.sum(labels == label)) for label in np.unique(labels)
    }
    table = run("evaluate", small, "--dataset", tmp_path, "--size", SIZE)
    assert table.stdout.startswith("overall accuracy 33.33% (2 of 6), top-5 66.67%, loss ")


def test_class_folders_are_mapped_to_the_heads_classes(files: Path, photographs: Path) -> None:
    images = labelled_images("photographs", open_source(str(photographs)).listing, None, Exclusions())
    names = describe(files / "21843.npz").class_names
    for known in (ONE_K, names):
        found = match_folders(images.class_names, known, "any")
        assert {folder: known[index].wnid for folder, index in found.items()} == {
            "english_SPRINGER": "n02102040",
            "n01440764": "n01440764",
            "n01443537_goldfish": "n01443537",
        }


def test_excluded_images_are_not_judged(small: Path, photographs: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out.csv"
    for split, label, image in (("val", "3", 0), ("val", "5", 1), ("test", "3", 2), ("test", "5", 3)):
        (data / split / label).mkdir(parents=True)
        shutil.copy(images_in(photographs)[image], data / split / label / "one.png")
    out.write_text("id,reason\nval/3/one.png,blurred\ntest/5/one.png,blurred\n")
    assert hyperrule.evaluate(small, data, size=SIZE, quiet=True).examples == 2
    accuracy = hyperrule.evaluate(small, data, exclude=out, size=SIZE, quiet=True)
    assert [(row.folder, row.examples) for row in accuracy.per_class] == [("3", 1)]
    result = run("evaluate", small, "--dataset", data, "--split", "validation", "--exclude", out, "--size", SIZE)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("validation accuracy ")
    assert " of 1)" in result.stdout
    out.write_text("id\ntest/3/one.png\ntest/5/one.png\n")
    with pytest.raises(DataError, match=r"out\.csv leaves no image of .* for test\."):
        hyperrule.evaluate(small, data, exclude=out, size=SIZE, quiet=True)
    out.write_text("id\nother/one.png\n")
    with pytest.raises(DataError, match=r"excludes 1 images that the data set does not have"):
        hyperrule.evaluate(small, data, exclude=out, size=SIZE, quiet=True)


def test_one_image_is_enough_and_bad_ones_are_left_out_and_told(small: Path, photographs: Path, tmp_path: Path) -> None:
    for split, label in (("train", "3"), ("val", "5")):
        (tmp_path / split / label).mkdir(parents=True)
        shutil.copy(images_in(photographs)[0], tmp_path / split / label)
    (tmp_path / "val" / "5" / "bad.jpg").write_text("text")
    result = run("evaluate", small, "--dataset", tmp_path, "--size", SIZE)
    assert result.exit_code == 1
    assert result.stdout.startswith("validation accuracy ")
    assert result.stdout.endswith("not counted val/5/bad.jpg: not JPEG, PNG, GIF, BMP or WEBP, but text\n")
    accuracy = hyperrule.evaluate(small, tmp_path, split="train", size=SIZE, quiet=True)
    assert (accuracy.split, accuracy.examples, accuracy.undecodable) == ("train", 1, {})
    assert accuracy.loss is not None
    accuracy = hyperrule.evaluate(small, tmp_path, split="train", activation="sigmoid", size=SIZE, quiet=True)
    assert (accuracy.activation, accuracy.loss) == ("sigmoid", None)
    (tmp_path / "val" / "5" / images_in(photographs)[0].name).unlink()
    with pytest.raises(DataError, match=r"none of the 1 images .* can be decoded: val/5/bad\.jpg \(not JPEG"):
        hyperrule.evaluate(small, tmp_path, size=SIZE, quiet=True)


@pytest.mark.parametrize(
    ("folder", "classes"),
    [
        ("n02012849", [134]),
        ("n02012849_crane", [134]),
        ("n02012849-whatever it is", [134]),
        ("n020128490", []),
        ("n99999999_tench", []),
        ("tench", [0]),
        ("Great_White__Shark", [2]),
        ("crane", [134, 517]),
        ("7", [7]),
        ("0999", [999]),
        ("1000", []),
        ("-1", []),
        ("²", []),
        ("", []),
    ],
)
def test_what_a_class_folder_means_to_imagenet(folder: str, classes: list[int]) -> None:
    assert ClassIndex(ONE_K).find(folder) == classes


def test_names_come_before_indices_and_exact_ones_before_others() -> None:
    numbers = ClassIndex([ClassName("", name) for name in ("0", "1", "10", "2")])  # in the order of a run
    assert [numbers.find(name) for name in ("10", "2", "3")] == [[2], [3], []]
    letters = ClassIndex([ClassName("", name) for name in ("A", "a", "n01440764", "b_c", "b c")])
    assert [letters.find(name) for name in ("a", "A", "n01440764_tench", "3", "b c", "B C")] == [
        [1],
        [0],
        [2],
        [3],
        [4],
        [3, 4],
    ]


def test_a_savedmodel_whose_outputs_are_logits(small: Path, photographs: Path, tmp_path: Path) -> None:
    images = images_in(photographs)
    (tmp_path / "names").write_text("".join(f"class {index}\n" for index in range(16)))
    options = {"top": 16, "size": SIZE, "class_names": tmp_path / "names", "quiet": True}
    logits = small_logits(images)
    predictions = hyperrule.predict(small, images, **options)
    assert_scores(predictions, softmax(logits), 16)
    assert predictions[0].classes[0].class_name == f"class {predictions[0].classes[0].index}"
    assert_scores(hyperrule.predict(small, images, activation="sigmoid", **options), 1 / (1 + np.exp(-logits)), 16)


def test_a_savedmodel_of_one_size_and_unknown_range(photographs: Path, tmp_path: Path) -> None:
    SmallNet("none").save(tmp_path / "fixed", side=48)
    image = images_in(photographs)[0]
    with pytest.raises(BackboneError, match=r"is unknown .* Set it with --input-range"):
        hyperrule.predict(tmp_path / "fixed", image, quiet=True)
    with pytest.raises(BackboneError, match=r"takes images of 48 x 48 pixels only\. Received: 64\."):
        hyperrule.predict(tmp_path / "fixed", image, size=64, input_range="-1,1", quiet=True)
    predictions = hyperrule.predict(tmp_path / "fixed", image, input_range=(-1, 1), quiet=True)
    pixels = for_evaluation(image.read_bytes(), 48)[tf.newaxis] * 2 - 1
    assert_scores(predictions, softmax(SmallNet("none")(pixels).numpy()), 5)


def test_the_savedmodel_of_a_bit_with_its_head(files: Path, photographs: Path, tmp_path: Path) -> None:
    """Run natively, whatever the range of its own."""
    arrays = read_arrays(files / "7.npz")
    network = make_classifier(describe_backbone(str(files / "7.npz")), 7)
    network.load(arrays)
    variables = [variable.value for variable in network.arrays.values()]
    module = Module(lambda images, training: network(images), variables, side=SIZE)
    tf.saved_model.save(module, str(tmp_path / "module"))
    image = images_in(photographs)[:2]
    ours = hyperrule.predict(tmp_path / "module", image, size=SIZE, quiet=True)
    assert_scores(ours, softmax(direct_logits(files / "7.npz", image, 7)), 5)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Classifier], Path]:
    """Writes a finished run folder of a classifier of the classes "cold" and "warm", as fine-tuning leaves it."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("cold", "warm"):
        (folder / name).mkdir()
        for index in range(2):
            Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / name / f"{index}.png")

    def make(backbone: str, classifier: Classifier) -> Path:
        path = tmp_path_factory.mktemp("run")
        planned = hyperrule.plan(dataset=folder, backbone=backbone, crop=SIZE, steps=1)
        (path / "plan.json").write_text(planned.model_dump_json())
        write_arrays(path / "weights.npz", classifier.snapshot())
        (path / "model_card.md").touch()
        return path

    return make


def two_classes(backbone: str) -> Classifier:
    classifier = make_classifier(describe_backbone(backbone), 2)
    head = head_of(classifier.backbone.features, 2)
    classifier.head.kernel.assign(head[f"{HEAD}kernel"][0, 0])
    classifier.head.bias.assign(head[f"{HEAD}bias"])
    return classifier


def assert_run_predicts(run: Path, classifier: Classifier, images: list[Path]) -> None:
    predictions = hyperrule.predict(run, images, quiet=True)
    pixels = tf.stack([for_evaluation(path.read_bytes(), SIZE) for path in images])
    assert_scores(predictions, softmax(classifier(pixels).numpy()), 2)
    assert {found.class_name for found in predictions[0].classes} == {"cold", "warm"}
    for part in (run / "weights.npz", run / "export" / "saved_model" / "1"):
        assert describe(part) == describe(run)


def test_a_run_of_a_bit(
    make_run: Callable[[str, Classifier], Path], files: Path, photographs: Path, tmp_path: Path
) -> None:
    classifier = two_classes(str(files / "features.npz"))
    classifier.load(read_arrays(files / "features.npz"), with_head=False)
    run_folder = make_run(str(files / "features.npz"), classifier)
    assert_run_predicts(run_folder, classifier, images_in(photographs))
    (tmp_path / "Warm").mkdir()
    shutil.copy(images_in(photographs)[0], tmp_path / "Warm")
    accuracy = hyperrule.evaluate(run_folder, tmp_path, quiet=True)
    assert (accuracy.classes, accuracy.size, accuracy.per_class[0].class_name) == (2, SIZE, "warm")
    known = describe(run_folder)
    assert len(known.trained_on) == 1
    assert (known.has_seen(known.trained_on[0], None), known.has_seen(known.trained_on[0], "test")) == (True, False)
    assert not known.has_seen(tmp_path, None)
    (run_folder / "model_card.md").unlink()
    with pytest.raises(BackboneError, match="unfinished run"):
        hyperrule.predict(run_folder, photographs, quiet=True)


def test_a_run_of_a_foreign_network(
    make_run: Callable[[str, Classifier], Path], photographs: Path, tmp_path: Path
) -> None:
    SmallNet().save(tmp_path / "small")
    classifier = two_classes(str(tmp_path / "small"))
    run_folder = make_run(str(tmp_path / "small"), classifier)
    card = Card(name="run", class_names=("cold", "warm"), size=SIZE, temperature=1.0)
    export_saved_model(classifier, card, run_folder / "export" / "saved_model" / "1")
    shutil.rmtree(tmp_path / "small")  # a run needs nothing but itself
    images = images_in(photographs)
    assert_run_predicts(run_folder, classifier, images)
    shutil.copytree(run_folder / "export" / "saved_model" / "1", tmp_path / "elsewhere")
    with pytest.raises(BackboneError, match=r"is the export of a run: .* returns features, .* Give the run folder"):
        describe_classifier(str(tmp_path / "elsewhere"), ClassifierOptions(), Reporter(quiet=True))


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="the package with the weights is missing")
def test_efficientnet_lite0_knows_a_flower(tmp_path: Path) -> None:
    Image.fromarray(load_sample_images().images[1]).save(tmp_path / "flower.png")
    result = run("predict", "efficientnet-lite0", tmp_path / "flower.png", "--top", "2", "--json")
    assert result.exit_code == 0, result.stderr
    best = json.loads(result.stdout)[0]["predictions"]
    assert [(found["wnid"], found["class"]) for found in best] == [ONE_K[found["index"]] for found in best]
    assert "daisy" in [found["class"] for found in best]


# Mistakes: one line, exit code 2, before TensorFlow is imported


@pytest.fixture
def refused(files: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command line in a folder with all checkpoints and a photograph, and returns the message."""
    monkeypatch.chdir(tmp_path)
    for module in ("tensorflow", "keras", "hyperrule.prediction.predictions", "hyperrule.prediction.accuracy"):
        monkeypatch.setitem(sys.modules, module, None)
    for file in files.iterdir():
        Path(file.name).symlink_to(file)
    shutil.copy(images_in(photographs)[0], "image.png")
    Path("empty").mkdir()
    Path("names").write_text("one\ntwo\n")
    for name in ("crane", "xyzzy", "n02012849_crane"):
        Path("data", name).mkdir(parents=True)
        shutil.copy("image.png", Path("data", name))

    def run_refused(*arguments: str) -> str:
        result = run(*arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError("an exception reached the user") from result.exception
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
        return result.stderr

    return run_refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["7.npz"], ["Missing argument 'IMAGES...'"]),
        (["7.npz", "empty"], ["no image in empty", ".jpeg, .jpg"]),
        (["7.npz", "image.png", "gone.jpg"], ["no such image or folder: gone.jpg."]),
        (["7.npz", "image.png", "--top", "8"], ["from 1 to 7", "Received: 8"]),
        (["7.npz", "image.png", "--top", "0"], ["from 1 to 7", "Received: 0"]),
        (["7.npz", "image.png", "--threshold", "43"], ["threshold must be a probability, from 0 to 1", "43.0"]),
        (["7.npz", "image.png", "--threshold", "nan"], ["threshold must be a probability", "Received: nan"]),
        (
            ["7.npz", "image.png", "--csv", "gone/o.csv"],
            ["--csv gone/o.csv cannot be written: there is no folder gone"],
        ),
        (["7.npz", "image.png", "--jsonl", "empty"], ["--jsonl empty cannot be written: it is a folder"]),
        (["7.npz", "image.png", "--csv", "/dev/null"], ["--csv /dev/null cannot be written: it is not a regular file"]),
        (["7.npz", "image.png", "--parquet", "-"], ["cannot be written to stdout"]),
        (["7.npz", "image.png", "--csv", "-", "--json"], ["--csv and --json would write to the same place"]),
        (["7.npz", "image.png", "--csv", "o", "--parquet", "./o"], ["--csv and --parquet would write to the same"]),
        (["7.npz", "*.jgp"], ["no image matches '*.jgp'"]),
        (["7.npz", "image.png", "--size", "31"], ["from 32 to 4096", "Received: 31"]),
        (["7.npz", "image.png", "--activation", "tanh"], ["softmax or sigmoid", "Received: 'tanh'"]),
        (["7.npz", "image.png", "--input-range", "1,2"], ["0,1 or -1,1 or 0,255", "Received: '1,2'"]),
        (["7.npz", "image.png", "--input-range", "0,1"], ["takes images in [-1, 1]", "Leave it out"]),
        (["7.npz", "image.png", "--class-names", "names"], ["each of the head's 7 classes", "Received: 2 lines"]),
        (["7.npz", "image.png", "--class-names", "gone"], ["class names gone cannot be read"]),
        (["7.npz", "image.png", "--class-names", "imagenet-1k"], ["names 1000 classes", "7.npz has 7"]),
        (["features.npz", "image.png"], ["features.npz gives features only", "Give a classifier"]),
        (["half.npz", "image.png"], ["(1, 1, 1024, classes)", "no kernel and (7,)"]),
        (["gone.npz", "image.png"], ["gone.npz does not exist"]),
        (["empty", "image.png"], ["neither a SavedModel folder nor a run folder"]),
        (["efficientnet-lite1", "image.png"], ["unknown backbone", "Did you mean 'efficientnet-lite0'?"]),
        (["bit-r26x0.5", "image.png"], ["bit-r26x0.5 gives features only", "Fine-tune it"]),
        (["random-r26x0.5", "image.png"], ["gives features only"]),
        (["bit-l-r50x1", "image.png"], ["never released"]),
        (
            ["google/bit/m-r50x1/1", "image.png"],
            ["features only", "google/bit/m-r50x1/imagenet21k_classification, google/bit/m-r50x1/ilsvrc2012_class"],
        ),
        (
            ["sayakpaul/distill_bit_r50x1_160_feature_extraction", "image.png"],
            ["Released with a head: sayakpaul/distill_bit_resnet50x1_160_classification."],
        ),
    ],
)
def test_predictions_that_cannot_be_made(refused: Callable[..., str], arguments: list[str], words: list[str]) -> None:
    line = refused("predict", *arguments)
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["7.npz"], ["Missing option '--dataset'"]),
        (["7.npz", "--dataset", "gone"], ["data set gone does not exist"]),
        (["7.npz", "--dataset", "empty"], ["empty holds no class folder with images", "Received: an empty folder"]),
        (["7.npz", "--dataset", "data", "--split", "test"], ["data has no images for test", "leave --split out"]),
        (["7.npz", "--dataset", "digits", "--split", "validation"], ["it has no splits; leave --split out"]),
        (
            ["21843.npz", "--dataset", "data"],
            ["1 unknown: 'xyzzy'", "1 ambiguous: 'crane' (n0", "Allowed: a WordNet id (", "index from 0 to 21842"],
        ),
        (
            ["1000.npz", "--dataset", "data", "--class-names", "imagenet-1k"],
            ["of 1000.npz", "ambiguous: 'crane' (n02012849 or n03126707)", "a class name ('tench')"],
        ),
        (["7.npz", "--dataset", "data"], ["3 unknown: ", "Allowed: an index from 0 to 6."]),
    ],
)
def test_evaluations_that_cannot_be_made(refused: Callable[..., str], arguments: list[str], words: list[str]) -> None:
    line = refused("evaluate", *arguments)
    assert [word for word in words if word not in line] == []


def test_mistakes_in_python(files: Path, photographs: Path) -> None:
    image: Any = images_in(photographs)[0]
    with pytest.raises(DataError, match="Received: nothing"):
        hyperrule.predict(files / "7.npz", [])
    with pytest.raises(RecipeError, match="top must be from 1 to 7"):
        hyperrule.predict(files / "7.npz", image, top=True)
    with pytest.raises(UserError, match="File name too long"):
        hyperrule.predict(files / "7.npz", "x" * 5000)
