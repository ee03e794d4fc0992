"""`describe_classifier`: from a user's name for a classifier to its facts, and the files to load.

TensorFlow is imported only to inspect a SavedModel for the first time.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hyperrule.backbones.bit.checkpoints import head_classes
from hyperrule.backbones.class_names import ClassName, class_names, read_class_names
from hyperrule.backbones.describe import describe_backbone, is_backbone
from hyperrule.backbones.info import BackboneInfo, InputRange, parse_input_range
from hyperrule.backbones.lite0 import package
from hyperrule.backbones.zoo import CLASSES, ZOO, ClassNames, Head, Released, find
from hyperrule.data.listing import Split
from hyperrule.errors import BackboneError, RecipeError
from hyperrule.prediction.formats import CARD_FILE
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed

Activation = Literal["softmax", "sigmoid"]

SMALLEST, LARGEST = 32, 4096  # sides in pixels, as of --crop
USUAL_SIDE = 224  # of most networks released for ImageNet; used if nothing else is known
NAMES_OF_21K: ClassNames = "imagenet-21k"


@dataclass(frozen=True)
class ClassifierOptions:
    """What the user says about a classifier; None where hyperrule shall find out itself.

    `size` is the side in pixels to which images are resized. `class_names` is a file with one name a line, or
    "imagenet-1k" or "imagenet-21k".
    """

    size: int | None = None
    activation: Activation | None = None
    class_names: str | None = None
    input_range: InputRange | None = None


@dataclass(frozen=True)
class ReleasedClassifier:
    """A backbone with its own head.

    `head` is the .npz with the head's arrays, None if the backbone's outputs are the logits. `class_names` are in the
    order of the outputs; unknown classes are named by their index. Images are resized to `size` x `size` pixels.
    `note` states an assumption the user should know of, None if there is none. `trained_on` lists the data sets of a
    run, as locations or names. Probabilities are `activation`(logits / `temperature`).
    """

    name: str
    backbone: BackboneInfo
    head: Path | None
    activation: Activation
    class_names: tuple[ClassName, ...]
    size: int
    note: str | None = None
    trained_on: tuple[str, ...] = ()
    temperature: float = 1.0

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def has_seen(self, dataset: str, split: Split | None) -> bool:
        """Whether it was trained on images of this split of the data set, or of the data set if it has no splits."""
        if split not in (None, "train"):
            return False
        return os.path.realpath(os.path.expanduser(dataset)) in map(os.path.realpath, self.trained_on)


@dataclass(frozen=True)
class _Found:
    """A classifier, and what is known about its outputs; None where unknown."""

    backbone: BackboneInfo
    head: Path | None
    classes: int
    activation: Activation | None = None
    class_names: tuple[ClassName, ...] | None = None
    size: int | None = None
    trained_on: tuple[str, ...] = ()
    temperature: float = 1.0

    def known_as(self, head: Head, size: int) -> "_Found":
        return replace(self, activation=head.activation, class_names=class_names(head.class_names), size=size)


def make_classifier_options(
    size: int | None, activation: str | None, class_names: str | os.PathLike[str] | None, input_range: Any
) -> ClassifierOptions:
    """Check the user's options; `input_range` is two numbers or "0,1". Raises RecipeError for values not allowed."""
    if size is not None and (isinstance(size, bool) or not SMALLEST <= size <= LARGEST):
        raise RecipeError(f"size must be from {SMALLEST} to {LARGEST} pixels. Received: {size!r}")
    if activation not in (None, *get_args(Activation)):
        raise RecipeError(f"activation must be {' or '.join(get_args(Activation))}. Received: {activation!r}")
    try:
        low_high = parse_input_range(input_range)
    except ValueError as error:
        raise RecipeError(f"input range {error}. Received: {input_range!r}") from None
    return ClassifierOptions(size, activation, None if class_names is None else os.fspath(class_names), low_high)  # type: ignore[arg-type]


def describe_classifier(model: str, asked: ClassifierOptions, reporter: Reporter) -> ReleasedClassifier:
    """Return the facts of a classifier.

    `model` is a name of the zoo with a head, a hub handle or a SavedModel whose outputs are logits, a BiT .npz with a
    head, or a finished run folder. Missing files are downloaded. Raises BackboneError as `describe_backbone` does, for
    a model without a head, and for options that contradict what is known.
    """
    found = _found(model, asked.input_range, reporter)
    backbone = found.backbone
    if found.activation is not None and asked.activation not in (None, found.activation):
        raise BackboneError(
            f"{backbone.name} was trained with {found.activation}. Received: --activation {asked.activation}. "
            "Leave it out: it is for classifiers of unknown origin."
        )
    fixed = None if backbone.opaque is None else backbone.opaque.side
    if fixed is not None and asked.size not in (None, fixed):
        raise BackboneError(f"{backbone.name} takes images of {fixed} x {fixed} pixels only. Received: {asked.size}.")
    is_21k = found.classes == CLASSES[NAMES_OF_21K]
    classifier = ReleasedClassifier(
        name=backbone.name,
        backbone=backbone,
        head=found.head,
        activation=asked.activation or found.activation or ("sigmoid" if is_21k else "softmax"),
        class_names=_class_names(found, asked.class_names),
        size=asked.size or fixed or found.size or USUAL_SIDE,
        trained_on=found.trained_on,
        temperature=found.temperature,
    )
    if found.class_names is not None or asked.class_names is not None or is_21k:
        return classifier
    also = ", or imagenet-1k" if found.classes == CLASSES["imagenet-1k"] else ""
    note = (
        f"The classes of {backbone.name} are unknown: its {found.classes} outputs are treated as "
        f"{classifier.activation} logits and named by their index. Name them with --class-names FILE{also}."
    )
    return replace(classifier, note=note)


def _found(model: str, input_range: InputRange | None, reporter: Reporter) -> _Found:
    path = Path(os.path.expanduser(model))
    if (run := run_of(path)) is not None:
        return _of_run(run, input_range, reporter)
    if not is_backbone(path) and (released := find(model)) is not None:
        return _of_zoo(released, input_range, reporter)
    found = _with_head(describe_backbone(model, reporter, input_range=input_range))
    same = find(path.name) if path.suffix == ".npz" else None
    if same is not None and same.head is not None:  # by name, architecture and head a file of the public bucket
        backbone = found.backbone
        if (same.architecture, same.head.classes) == (backbone.network, found.classes):
            return found.known_as(same.head, same.resolution)
    return found


def run_of(path: Path) -> Path | None:
    """Return the run folder that `path` is, or to which it belongs as weights.npz or export; None for other paths."""
    parts = ("", "weights.npz", "export/saved_model", "export/saved_model/1")
    for part, run in zip(parts, (path, *path.parents), strict=False):
        if os.path.isfile(run / "plan.json") and run / part == path:
            return run
    return None


def _of_run(run: Path, input_range: InputRange | None, reporter: Reporter) -> _Found:
    """Describe a run; its head is in weights.npz, whether its backbone is a BiT or not."""
    backbone = describe_backbone(str(run), reporter, input_range=input_range)
    folder = RunFolder(run)
    plan = folder.read_plan()
    classes = head_classes(folder.weights_file, backbone.features)
    if classes is None:
        raise BackboneError(f"{run} gives features only: no logits were matched when it was distilled.")
    if classes != len(plan.class_names):
        raise BackboneError(
            f"{folder.weights_file} has a head of {classes} classes, but {folder.plan_file} names "
            f"{len(plan.class_names)}."
        )
    return _Found(
        backbone,
        folder.weights_file,
        classes,
        "softmax",
        plan.classes,
        plan.evaluation_size.value,
        plan.trained_on,
        folder.read_temperature(),
    )


def _of_zoo(released: Released, input_range: InputRange | None, reporter: Reporter) -> _Found:
    if released.head is None and released.source.kind != "bring":
        raise BackboneError(f"{released.name} gives features only: it has no head. {_instead_of(released)}")
    backbone = describe_backbone(released.name, reporter, input_range=input_range)
    assert released.head is not None  # else refused above, or by describe_backbone
    if released.source.kind == "package":
        found = _Found(backbone, package.head_file(), released.head.classes)
    else:
        found = _with_head(backbone)
    if found.classes != released.head.classes:
        raise BackboneError(
            f"{backbone.path} has {found.classes} outputs, not {released.head.classes} as {released.name} should have."
        )
    return found.known_as(released.head, released.resolution)


def _instead_of(released: Released) -> str:
    """What to use in place of a backbone without a head."""
    alike = [
        other.name
        for other in ZOO.values()
        if other.head is not None
        and other.source.kind == released.source.kind
        and other.architecture == released.architecture
        and (
            other.name.startswith(released.name)
            or (other.trained_on, other.resolution) == (released.trained_on, released.resolution)
        )
    ]
    if alike:
        return f"Released with a head: {listed(alike)}."
    return "Fine-tune it (hyperrule finetune), and give the run folder, or choose another: hyperrule backbones."


def _with_head(backbone: BackboneInfo) -> _Found:
    if backbone.opaque is not None:
        _refuse_export(backbone)
        return _Found(backbone, None, backbone.features)
    head = None if backbone.path is None else Path(backbone.path)
    classes = None if head is None else head_classes(head, backbone.features)
    if classes is None:
        raise BackboneError(
            f"{backbone.name} gives features only: it has no head. Give a classifier: a name that 'hyperrule "
            "backbones' lists with a head, a SavedModel that returns logits, a BiT .npz with a head, or a run folder."
        )
    return _Found(backbone, head, classes)


def _refuse_export(backbone: BackboneInfo) -> None:
    """Raise BackboneError for hyperrule's exports of opaque graphs: called as modules, they return features."""
    folder = Path(backbone.path or "")
    if (folder / "assets.extra" / CARD_FILE).is_file():
        raise BackboneError(
            f"{backbone.path} is the export of a run: called as a module, it returns features, not logits. "
            "Give the run folder instead."
        )


def _class_names(found: _Found, asked: str | None) -> tuple[ClassName, ...]:
    if asked is not None:
        return named_classes(asked, found.classes, found.backbone.name)
    if found.class_names is None and found.classes == CLASSES[NAMES_OF_21K]:
        return class_names(NAMES_OF_21K)
    return found.class_names or tuple(ClassName("", str(index)) for index in range(found.classes))


def named_classes(asked: str, classes: int, classifier: str) -> tuple[ClassName, ...]:
    """The names of `classes` classes that `asked`, a value of `ClassifierOptions.class_names`, gives.

    Raises BackboneError for another number of names.
    """
    for key, known in CLASSES.items():
        if asked == key:
            if known != classes:
                raise BackboneError(f"{key} names {known} classes; {classifier} has {classes}.")
            return class_names(key)
    return read_class_names(Path(os.path.expanduser(asked)), classes)
