"""The forms of an exported classifier: what each needs to run, how near to the evaluation it has to be, and the card
that travels inside it."""

from importlib.util import find_spec
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from hyperrule import __version__
from hyperrule.errors import UserError
from hyperrule.support.wording import did_you_mean

FormatName = Literal["saved_model", "module", "litert", "onnx", "keras"]
Quantize = Literal["none", "float16", "dynamic", "int8"]


class Format(BaseModel):
    """`place` is where it lies in a run's export/, `runtime` the function of `prediction.runtimes` that loads it,
    `packages` what has to be importable, from the extra of that name."""

    model_config = ConfigDict(frozen=True)

    place: str
    runtime: str
    packages: tuple[str, ...] = ()
    quantize: tuple[Quantize, ...] = ("none",)


FORMATS: dict[FormatName, Format] = {
    "saved_model": Format(place="saved_model/1", runtime="saved_model"),
    "module": Format(place="module", runtime="saved_model"),
    "litert": Format(
        place="classifier.tflite", runtime="litert", packages=("ai_edge_litert",), quantize=get_args(Quantize)
    ),
    "onnx": Format(place="classifier.onnx", runtime="onnx", packages=("tf2onnx", "onnxruntime")),
    "keras": Format(place="classifier.keras", runtime="keras"),
}


class Tolerance(BaseModel):
    """The most that a probability may differ, and the least part of images that get the same label."""

    model_config = ConfigDict(frozen=True)

    difference: float
    agreement: float


# The same float32 network in other kernels; evaluated with TF32 convolutions on a GPU, replayed on the CPU; 11 bits of
# mantissa; 8 bits of weights; 8 bits of activations, too, whose top label is what counts.
FLOAT32 = Tolerance(difference=1e-4, agreement=0.0)
AFTER_GPU = Tolerance(difference=1e-2, agreement=0.0)
TOLERANCES: dict[Quantize, Tolerance] = {
    "none": FLOAT32,
    "float16": Tolerance(difference=2e-2, agreement=0.98),
    "dynamic": Tolerance(difference=1.0, agreement=0.95),
    "int8": Tolerance(difference=1.0, agreement=0.9),
}


def export_name(name: FormatName, quantize: Quantize) -> str:
    """What parity.json calls it.

    >>> export_name("litert", "int8"), export_name("onnx", "none")
    ('litert-int8', 'onnx')
    """
    return name if quantize == "none" else f"{name}-{quantize}"


def place(name: FormatName, quantize: Quantize) -> str:
    """
    >>> place("litert", "int8"), place("saved_model", "none")
    ('classifier-int8.tflite', 'saved_model/1')
    """
    plain = FORMATS[name].place
    if quantize == "none":
        return plain
    stem, _, suffix = plain.rpartition(".")
    return f"{stem}-{quantize}.{suffix}"


def checked_format(name: str, quantize: str) -> tuple[FormatName, Quantize]:
    """Raises UserError for a format or quantisation that is not there, or whose packages are not installed."""
    known = next((known for known in FORMATS if known == name), None)
    if known is None:
        hint = did_you_mean(name, FORMATS)
        raise UserError(f"--format must be one of {', '.join(FORMATS)}. Received: {name!r}.{hint}")
    chosen = next((chosen for chosen in FORMATS[known].quantize if chosen == quantize), None)
    if chosen is None:
        allowed = ", ".join(FORMATS[known].quantize)
        also = "" if len(FORMATS[known].quantize) > 1 else "; litert has float16, dynamic and int8"
        raise UserError(f"--quantize for {known} must be one of {allowed}{also}. Received: {quantize!r}")
    require(known)
    return known, chosen


def require(name: FormatName) -> None:
    """Raises UserError unless the packages of the format can be imported."""
    if missing := [package for package in FORMATS[name].packages if find_spec(package) is None]:
        raise UserError(f"{name} needs {' and '.join(missing)}. Install: pip install 'hyperrule[{name}]'")


CARD_FILE = "hyperrule.json"


class Card(BaseModel):
    """Images are RGB in [0, 1], upright, resized to `size` x `size` pixels, bilinear without antialiasing;
    probabilities, in the order of `class_names`, are softmax(logits / `temperature`)."""

    model_config = ConfigDict(frozen=True)

    name: str
    class_names: tuple[str, ...]
    size: int
    temperature: float
    made_by: str = f"hyperrule {__version__}"
