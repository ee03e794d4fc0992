"""Exports: every format agrees with the network in its own runtime; an export that disagrees is not kept."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from command_line import SMALL
from command_line import run as hyperrule_command
from conftest import golden_array
from modules import SmallNet
from scipy.special import softmax

import hyperrule
from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.describe import describe_backbone
from hyperrule.data.images import Examples, Files
from hyperrule.errors import UserError
from hyperrule.exporting.converted import export_keras, export_litert, export_onnx
from hyperrule.exporting.saved_model import export_module, export_saved_model
from hyperrule.prediction.formats import FORMATS, Card, FormatName, Quantize, place
from hyperrule.prediction.runtimes import RUNTIMES
from hyperrule.training.classifier import Classifier, fold, make_classifier

SIDE, NAMES = 32, ("naïve\u202e", "<b>cat</b>", 'a "quoted, name"', "狗")
CARD = Card(name="test", class_names=NAMES, size=SIDE, temperature=2.0)
EVERY_FORM: list[tuple[FormatName, Quantize, float]] = [
    ("saved_model", "none", 1e-4),
    ("module", "none", 1e-4),
    ("keras", "none", 1e-4),
    ("onnx", "none", 1e-4),
    ("litert", "none", 1e-4),
    ("litert", "float16", 1e-2),
    ("litert", "dynamic", 0.2),
    ("litert", "int8", 0.5),
]


def with_head(classifier: Classifier, scale: float) -> Classifier:
    classifier.head.kernel.assign(golden_array("head/kernel", classifier.head.kernel.shape) * scale)
    return classifier


@pytest.fixture(scope="module")
def bit() -> Classifier:
    classifier = with_head(make_classifier(describe_backbone("random-r26x0.5"), len(NAMES)), scale=10)
    arrays = Architecture(26, 0.5).array_shapes
    classifier.load({name: golden_array(name, shape) for name, shape in arrays.items()}, with_head=False)
    return classifier


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = tmp_path_factory.mktemp("foreign") / "small"
    SmallNet().save(folder)
    return with_head(make_classifier(describe_backbone(str(folder)), len(NAMES)), scale=200)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """24 parts of real photographs."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photographs")
    parts = [
        image[top : top + 100, left : left + 120]
        for image in load_sample_images().images
        for top in (0, 120, 240)
        for left in (0, 130, 260, 390)
    ]
    files = [f"{number:02d}.png" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        (folder / file).write_bytes(tf.io.encode_png(part).numpy())
    return Examples(files, np.zeros(len(files), np.int32), Files.of(folder, files))


def pixels(examples: Examples) -> np.ndarray:
    from hyperrule.data.preprocess import for_evaluation

    return np.stack([for_evaluation(encoded, SIDE).numpy() for encoded in examples.encoded()])


def write(classifier: Classifier, name: FormatName, quantize: Quantize, examples: Examples, target: Path) -> None:
    folded = classifier.for_inference()
    fold(classifier, folded)
    match name:
        case "saved_model":
            export_saved_model(folded, CARD, target)
        case "module":
            export_module(classifier, CARD, target)
        case "keras":
            export_keras(folded, CARD, target)
        case "onnx":
            export_onnx(folded, CARD, target)
        case "litert":
            export_litert(folded, CARD, quantize, examples, target)


def assert_says_the_same(path: Path, name: FormatName, classifier: Classifier, examples: Examples, most: float) -> None:
    export = RUNTIMES[FORMATS[name].runtime](str(path), 2)
    images = pixels(examples)
    expected = softmax(classifier(images).numpy() / CARD.temperature, axis=1)
    assert expected.max(axis=1).std() > 0.01  # they tell the images apart
    for batch in (images, images[:1]):
        found = export.classify(batch)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected[: len(batch)], abs=most)
    assert tuple(export.class_names) == NAMES
    if name == "saved_model":
        assert export.classify_encoded is not None
        assert export.classify_encoded(list(examples.encoded())) == pytest.approx(expected, abs=most)


@pytest.fixture(scope="module")
def written(
    bit: Classifier, photographs: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[FormatName, Quantize], Path]:
    """The BiT in a form, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("exports")

    def path_of(name: FormatName, quantize: Quantize) -> Path:
        path = folder / place(name, quantize)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write(bit, name, quantize, photographs, path)
        return path

    return path_of


@pytest.mark.parametrize(("name", "quantize", "most"), EVERY_FORM, ids=lambda part: str(part))
def test_every_form_says_what_the_network_says(
    name: FormatName,
    quantize: Quantize,
    most: float,
    written: Callable[[FormatName, Quantize], Path],
    bit: Classifier,
    photographs: Examples,
) -> None:
    assert_says_the_same(written(name, quantize), name, bit, photographs, most)


@pytest.mark.parametrize(("name", "quantize"), [("onnx", "none"), ("litert", "none"), ("module", "none")])
def test_a_foreign_network(
    name: FormatName, quantize: Quantize, foreign: Classifier, photographs: Examples, tmp_path: Path
) -> None:
    path = tmp_path / Path(place(name, quantize)).name
    write(foreign, name, quantize, photographs, path)
    assert_says_the_same(path, name, foreign, photographs, 1e-4)
    with pytest.raises(UserError, match=r"keras is for BiT"):
        write(foreign, "keras", "none", photographs, tmp_path / "x.keras")


def test_a_module_trains_and_is_a_backbone_again(
    written: Callable[[FormatName, Quantize], Path], bit: Classifier, photographs: Examples
) -> None:
    module = tf.saved_model.load(str(written("module", "none")))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(module(pixels(photographs)[:4], True)))
    gradients = tape.gradient(loss, module.trainable_variables)
    assert len(gradients) == len(bit.backbone.arrays)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    info = describe_backbone(str(written("module", "none")))
    assert (info.architecture, info.features) == ("R26x0.5", bit.backbone.features)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_litert_file_is_smaller_for_it_and_has_its_labels(
    quantize: Quantize, written: Callable[[FormatName, Quantize], Path], bit: Classifier, tmp_path: Path
) -> None:
    path = written("litert", quantize)
    weights = sum(int(np.prod(variable.shape)) for variable in bit.backbone.arrays.values())
    bytes_a_weight = path.stat().st_size / weights
    assert (3.9 < bytes_a_weight < 5) if quantize == "none" else (0.9 < bytes_a_weight < 2.5)
    shutil.unpack_archive(path, tmp_path / "unpacked", "zip")
    assert (tmp_path / "unpacked" / "labels.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)


def test_keras_opens_its_file_without_us(written: Callable[[FormatName, Quantize], Path]) -> None:
    script = (
        "import sys, keras; model = keras.models.load_model(sys.argv[1]); "
        "assert not any(name.startswith('hyperrule') for name in sys.modules); print(model.input_shape)"
    )
    command = [sys.executable, "-I", "-c", script, str(written("keras", "none"))]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.stdout.strip() == f"(None, {SIDE}, {SIDE}, 3)", told.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose own export made a fresh process."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = {**SMALL, "steps": 2, "examples_per_class": 4, "head_init": "probe"}
    hyperrule.finetune(dataset="digits", out=folder, quiet=True, **options)
    return folder


def test_an_export_of_a_run_is_compared_in_a_fresh_process(run: Path) -> None:
    parity = hyperrule.export(run, "onnx", quiet=True)
    assert parity.examples == 256
    assert parity.largest_difference <= 1e-4
    assert parity.accuracy_after == pytest.approx(parity.accuracy_before, abs=0.01)
    assert parity.bytes == (run / "export" / "classifier.onnx").stat().st_size
    stored = json.loads((run / "export" / "parity.json").read_text())
    assert {name: one["path"] for name, one in stored.items()} == {
        "saved_model": "saved_model/1",
        "onnx": "classifier.onnx",
    }
    assert stored["saved_model"]["examples"] == 256
    code, out, told = hyperrule_command("export", str(run), "--format", "onnx")
    assert (code, out) == (2, "")
    assert "classifier.onnx exists. Choose a name" in told.splitlines()[-1]


def test_what_disagrees_is_not_kept(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    table = pq.read_table(copy / "predictions.parquet")
    backwards = pa.array([row[::-1] for row in table["probabilities"].to_pylist()], pa.list_(pa.float32()))
    column = table.schema.names.index("probabilities")
    pq.write_table(table.set_column(column, "probabilities", backwards), copy / "predictions.parquet")
    shutil.rmtree(copy / "export")
    with pytest.raises(UserError, match=r"has no entry for saved_model\. .*: hyperrule export .* saved_model"):
        hyperrule.finetune(dataset="digits", out=copy, restartable=True, quiet=True)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for out in (None, tmp_path / "empty" / "module"):
        with pytest.raises(hyperrule.RunError, match=r"disagrees with the evaluation on 256 test images.*accuracy"):
            hyperrule.export(copy, "module", out=out, quiet=True)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "tflite"}, "--format must be one of saved_model, module, litert.* Received: 'tflite'"),
        ({"format": "onnx", "quantize": "int8"}, "--quantize for onnx must be one of none; litert has"),
        ({"format": "litert", "quantize": "8"}, "one of none, float16, dynamic, int8. Received: '8'"),
        ({"format": "module", "min_agreement": 95}, "--min-agreement must be from 0 to 1. Received: 95"),
        ({"format": "saved_model"}, "saved_model/1 exists"),
        ({"format": "module", "out": "no/such/folder"}, "cannot write no/such/folder"),
        ({"format": "module", "dataset": "gone"}, "was evaluated on: .*gone.* --dataset FOLDER"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_told(options: dict[str, Any], said: str, run: Path) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError, match=said):
        hyperrule.export(run, quiet=True, **options)
    assert sorted(run.rglob("*")) == before


def test_runs_that_cannot_be_exported(run: Path, image_folder: Path, tmp_path: Path) -> None:
    for no_run in (tmp_path, "bit-m-r50x1"):
        with pytest.raises(UserError, match="is no run folder"):
            hyperrule.export(no_run, "module", quiet=True)
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(UserError, match=r"holds other images than .* --dataset"):
        hyperrule.export(tmp_path / "run", "module", dataset=image_folder, quiet=True)
    (tmp_path / "run" / "weights.npz").unlink()
    with pytest.raises(UserError, match=r"weights\.npz"):
        hyperrule.export(tmp_path / "run", "module", quiet=True)


def test_a_runtime_that_is_not_installed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperrule.prediction.formats.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"litert needs ai_edge_litert\. Install: pip install 'hyperrule\[litert\]'"):
        hyperrule.export(run, "litert", quiet=True)
