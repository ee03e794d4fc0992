"""Exports of finished runs as classifiers, wherever they have been copied; no TensorFlow."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hyperrule.backbones.class_names import ClassName
from hyperrule.data.listing import Split
from hyperrule.errors import BackboneError
from hyperrule.prediction.formats import CARD_FILE, Card
from hyperrule.prediction.released import (
    Activation,
    ClassifierOptions,
    ReleasedClassifier,
    describe_classifier,
    named_classes,
)
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import printable

PIXELS = (0.0, 1.0)  # what every export takes


@dataclass(frozen=True)
class ExportedClassifier:
    """An export that its own runtime runs: calibrated probabilities for images of `size` x `size` pixels.

    `runtime` names the function of `prediction.runtimes` that loads `path`. The other fields are those of
    ReleasedClassifier.
    """

    name: str
    path: Path
    runtime: str
    class_names: tuple[ClassName, ...]
    size: int
    activation: Activation = "softmax"
    note: str | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def has_seen(self, dataset: str, split: Split | None) -> bool:
        """Return False: an export does not record what it was trained on."""
        return False


Model = ReleasedClassifier | ExportedClassifier


@dataclass(frozen=True)
class _Runtime:
    """A runtime of exports: `package` must be importable, and is installed by the extra `name` of hyperrule.

    `card` reads the JSON card inside an export, None if it has none.
    """

    name: str
    package: str
    card: Callable[[Path], str | bytes | None]


def describe_model(model: str, asked: ClassifierOptions, reporter: Reporter) -> Model:
    """Return the facts of an export, or else of a classifier that `describe_classifier` knows.

    Raises BackboneError for an export that cannot be read or whose runtime is not installed, and as
    `describe_classifier` does.
    """
    return describe_export(model, asked) or describe_classifier(model, asked, reporter)


def describe_export(model: str, asked: ClassifierOptions) -> ExportedClassifier | None:
    """Return the facts of an export; None if it is no SavedModel with a card, nor a .tflite, .onnx or .keras file."""
    path = Path(os.path.expanduser(model))
    runtime = RUNTIMES.get(path.suffix)
    if runtime is None or path.is_dir():
        path, runtime = _newest(path), SAVED_MODEL
        if _card_of_saved_model(path) is None:
            return None
    card = _read(path, runtime)
    for what, received, taken in (
        ("returns softmax probabilities", asked.activation, "softmax"),
        (f"takes images of {card.size} x {card.size} pixels only", asked.size, card.size),
        ("takes images in [0, 1]", asked.input_range, PIXELS),
    ):
        if received not in (None, taken):
            raise BackboneError(f"{printable(path)} {what}. Received: {received}. Leave it out.")
    own = tuple(ClassName("", name) for name in card.class_names)
    names = own if asked.class_names is None else named_classes(asked.class_names, len(own), path.name)
    return ExportedClassifier(card.name if runtime is SAVED_MODEL else path.name, path, runtime.name, names, card.size)


def _newest(path: Path) -> Path:
    """Return the highest of a folder's numbered versions, which TensorFlow Serving serves; without any, `path`."""
    versions = [child for child in path.iterdir() if child.name.isdecimal()] if path.is_dir() else []
    return max(versions, key=lambda child: int(child.name), default=path)


def _read(path: Path, runtime: _Runtime) -> Card:
    if not path.exists():
        raise BackboneError(f"{printable(path)} does not exist.")
    if find_spec(runtime.package) is None:
        raise BackboneError(
            f"{printable(path)} needs {runtime.package}. Install: pip install 'hyperrule[{runtime.name}]'"
        )
    try:
        found = runtime.card(path)
        card = None if found is None else Card.model_validate_json(found)
    except Exception as error:  # runtimes raise errors of many types
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{printable(path)} cannot be read as an export: {reason}") from None
    if card is None:
        raise BackboneError(
            f"{printable(path)} was not made by 'hyperrule export': it contains no {CARD_FILE}. "
            "Give an export, a run folder, or a name that 'hyperrule backbones' lists with a head."
        )
    return card


def _card_of_saved_model(folder: Path) -> bytes | None:
    file = folder / "assets.extra" / CARD_FILE
    return file.read_bytes() if file.is_file() else None


def _card_in_archive(file: Path) -> bytes | None:
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return archive.read(CARD_FILE) if CARD_FILE in archive.namelist() else None


def _card_of_onnx(file: Path) -> str | None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is not run
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    card: str | None = session.get_modelmeta().custom_metadata_map.get("hyperrule")
    return card


SAVED_MODEL = _Runtime("saved_model", "tensorflow", _card_of_saved_model)
RUNTIMES = {
    ".tflite": _Runtime("litert", "ai_edge_litert", _card_in_archive),
    ".onnx": _Runtime("onnx", "onnxruntime", _card_of_onnx),
    ".keras": _Runtime("keras", "keras", _card_in_archive),
}
