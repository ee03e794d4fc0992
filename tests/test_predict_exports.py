"""Exports as classifiers, without their runs: calibrated probabilities in their own runtime, and refused requests."""

import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from modules import SmallNet
from PIL import Image
from sklearn.datasets import load_sample_images

import hyperrule
from hyperrule.backbones.describe import describe_backbone
from hyperrule.cli import main
from hyperrule.data.preprocess import for_evaluation
from hyperrule.errors import BackboneError
from hyperrule.exporting.saved_model import export_module, export_saved_model
from hyperrule.prediction.formats import CARD_FILE, Card
from hyperrule.training.classifier import Classifier, make_classifier

SIZE = 32
CARD = Card(name="weather", class_names=("cold", "<b>warm</b>", "ünïcödé"), size=SIZE, temperature=2.5)
FORMS = ("saved_model", "versions", "module", "litert", "onnx", "keras")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Parts of photographs, one more than a batch, of which one cannot be decoded."""
    folder = tmp_path_factory.mktemp("images")
    flower = load_sample_images().images[1]
    for index in range(33):
        Image.fromarray(flower[10 * index : 10 * index + 60, :90]).save(folder / f"{index:02d}.png")
    (folder / "07.png").write_text("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield sorted(folder.iterdir())


@pytest.fixture(scope="module")
def classifier(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = tmp_path_factory.mktemp("small")
    SmallNet().save(folder)
    classifier = make_classifier(describe_backbone(str(folder)), len(CARD.class_names))
    classifier.head.kernel.assign(np.random.default_rng(0).normal(0, 2, classifier.head.kernel.shape))
    return classifier


@pytest.fixture(scope="module")
def export(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the classifier in one of FORMS, under any name."""
    folder = tmp_path_factory.mktemp("elsewhere")

    @cache
    def write(form: str) -> Path:
        match form:
            case "saved_model":
                export_saved_model(classifier, CARD, folder / "any")
                return folder / "any"
            case "versions":
                export_saved_model(classifier, CARD, folder / "served" / "10")
                (folder / "served" / "9").mkdir()
                return folder / "served"
            case "module":
                export_module(classifier, CARD, folder / "module")
                return folder / "module"
            case "litert":
                pytest.importorskip("ai_edge_litert")
                from hyperrule.exporting.converted import export_litert

                export_litert(classifier, CARD, "none", None, folder / "a.tflite")  # type: ignore[arg-type]
                return folder / "a.tflite"
            case "onnx":
                pytest.importorskip("onnxruntime")
                pytest.importorskip("tf2onnx")
                from hyperrule.exporting.converted import export_onnx

                export_onnx(classifier, CARD, folder / "a.onnx")
                return folder / "a.onnx"
        return keras_file(folder / "a.keras")

    return write


def keras_file(file: Path) -> Path:
    """Of Keras' layers, as `export_keras` writes: it cannot take the others' graph."""
    model = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")]
    )
    model.save(file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(CARD_FILE, CARD.model_dump_json())
    return file


@pytest.mark.parametrize("form", FORMS)
def test_a_copied_export_says_what_the_network_says(
    export: Callable[[str], Path], classifier: Classifier, images: list[Path], form: str
) -> None:
    path = export(form)
    rows = hyperrule.predict(path, images, quiet=True)
    assert [index for index, row in enumerate(rows) if row.error] == [7]
    pixels = tf.stack([for_evaluation(image.read_bytes(), SIZE) for image in images if image.name != "07.png"])
    if form == "keras":
        expected = keras.models.load_model(path)(pixels).numpy()
    else:
        expected = tf.nn.softmax(classifier(pixels) / CARD.temperature).numpy()
    found = np.zeros_like(expected)
    for row, scores in zip([row for row in rows if not row.error], found, strict=True):
        for scored in row.classes:
            assert scored.class_name == CARD.class_names[scored.index]
            scores[scored.index] = scored.score
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(expected) > 0.01


def test_an_export_is_evaluated_by_its_calibrated_probabilities(
    export: Callable[[str], Path], classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    folders = ("cold", "1", "ünïcödé")
    for index, image in enumerate(images[:6]):
        (tmp_path / folders[index % 3]).mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / folders[index % 3])
    found = hyperrule.evaluate(export("saved_model"), tmp_path, quiet=True)
    pixels = tf.stack([for_evaluation(image.read_bytes(), SIZE) for image in images[:6]])
    logs = tf.nn.log_softmax(classifier(pixels) / CARD.temperature).numpy()
    truth = np.arange(6) % 3
    assert found.loss == pytest.approx(-logs[range(6), truth].mean(), rel=1e-4)
    assert (found.examples, found.model, found.size) == (6, "weather", SIZE)
    assert np.array(found.confusion).sum(axis=1).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.tflite"], ["gone.tflite does not exist"]),
        (["text.tflite"], ["text.tflite was not made by 'hyperrule export': it contains no hyperrule.json"]),
        (["empty.keras"], ["empty.keras was not made by 'hyperrule export'"]),
        (["damaged.keras"], ["damaged.keras cannot be read as an export", "Invalid JSON"]),
        (["text.onnx"], ["text.onnx cannot be read as an export"]),
        (["a.keras", "--size", "64"], ["a.keras takes images of 32 x 32 pixels only. Received: 64."]),
        (["a.keras", "--activation", "sigmoid"], ["a.keras returns softmax probabilities. Received: sigmoid."]),
        (["a.keras", "--input-range=-1,1"], ["a.keras takes images in [0, 1]. Received: (-1, 1)."]),
        (["a.keras", "--class-names", "imagenet-1k"], ["imagenet-1k names 1000 classes; a.keras has 3"]),
        (["a.keras", "--top", "4"], ["from 1 to 3", "Received: 4"]),
        (["broken.keras"], ["broken.keras cannot be loaded"]),
    ],
)
def test_exports_that_cannot_be_used(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    if "text.onnx" in arguments:
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    for name in ("text.tflite", "text.onnx"):
        Path(name).write_text("text")
    cards = {"empty": "", "damaged": "{", "broken": CARD.model_dump_json(), "a": CARD.model_dump_json()}
    for name, card in cards.items():
        with zipfile.ZipFile(f"{name}.keras", "w") as archive:
            archive.writestr(CARD_FILE if card else "other", card)
    result = CliRunner().invoke(main, ["predict", *arguments[:1], str(images[0]), *arguments[1:]])
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert [word for word in words if word not in result.stderr] == []


def test_a_runtime_that_is_not_installed(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package, extra in (("a.onnx", "onnxruntime", "onnx"), ("a.tflite", "ai_edge_litert", "litert")):
        (tmp_path / name).touch()
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            BackboneError, match=rf"{name} needs {package}\. Install: pip install 'hyperrule\[{extra}\]'"
        ):
            hyperrule.predict(tmp_path / name, images, quiet=True)
