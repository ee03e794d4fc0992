"""From a user's names for teacher and student to their facts; TensorFlow is imported only to inspect a SavedModel."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperrule.backbones.bit.checkpoints import head_classes
from hyperrule.backbones.class_names import class_names
from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.info import BackboneInfo
from hyperrule.backbones.zoo import CLASSES, find
from hyperrule.errors import BackboneError
from hyperrule.planning.distill import TeacherInfo
from hyperrule.prediction.released import ClassifierOptions, describe_classifier, run_of
from hyperrule.recipe import DistillRecipe
from hyperrule.support.progress import Reporter

FROM_SCRATCH = re.compile(r"r\d+x\d+(\.\d+)?", re.IGNORECASE)
WITH_BACKGROUND = 1001  # ImageNet's classes in TensorFlow's own classifiers, which add a background class


def describe_student(student: str, reporter: Reporter, fetch: bool = True) -> BackboneInfo:
    """Return the facts of a student; "r26x0.5" has random weights. Raises BackboneError as `describe_backbone` does."""
    name = f"random-{student}" if FROM_SCRATCH.fullmatch(student) else student
    with _renamed_options({"--backbone": "--student", "--input-range": "the range", "backbone 'random-": "student '"}):
        return describe_backbone(name, reporter, fetch=fetch)


def describe_teacher(recipe: DistillRecipe, reporter: Reporter, fetch: bool = True) -> TeacherInfo:
    """Return the facts of a teacher: a classifier with a softmax, or a network whose features are matched.

    The outputs of a SavedModel of unknown origin are logits if the recipe gives them a weight, or, if it gives no
    weights, if their number is that of ImageNet's classes. With `fetch`, missing files are downloaded. Raises
    BackboneError as `describe_backbone` and `describe_classifier` do.
    """
    with _renamed_options({"--backbone": "--teacher", "--input-range": "--teacher-range"}):
        backbone = describe_backbone(recipe.teacher, reporter, input_range=recipe.teacher_range, fetch=fetch)
    features_only = TeacherInfo(backbone=backbone, head=None, classes=0, class_names=())
    released = find(recipe.teacher) if backbone.kind in ("bucket", "hub", "package") else None
    if released is not None and backbone.path is None:  # a plan, before anything is downloaded
        if released.head is None or released.head.activation != "softmax":
            return features_only
        names = class_names(released.head.class_names)
        return TeacherInfo(backbone=backbone, head=None, classes=len(names), class_names=names)
    if not _is_classifier(recipe, backbone):
        return features_only
    known = describe_classifier(recipe.teacher, ClassifierOptions(input_range=recipe.teacher_range), reporter)
    if known.activation != "softmax":
        reporter.say(f"{known.name} was trained with a {known.activation}: its features are matched, not its logits.")
        return features_only
    return TeacherInfo(
        backbone=known.backbone,
        head=None if known.head is None else os.fspath(known.head),
        classes=known.classes,
        class_names=known.class_names,
    )


@contextmanager
def _renamed_options(options: dict[str, str]) -> Iterator[None]:
    """Rename finetune's options in the text of errors within the block; `options` maps old to new names."""
    try:
        yield
    except BackboneError as error:
        text = str(error)
        for old, new in options.items():
            text = text.replace(old, new)
        error.args = (text, *error.args[1:])
        raise


def _is_classifier(recipe: DistillRecipe, backbone: BackboneInfo) -> bool:
    if (run := run_of(Path(os.path.expanduser(recipe.teacher)))) is not None:
        return head_classes(run / "weights.npz", backbone.features) is not None
    if backbone.opaque is None:
        return backbone.path is not None and head_classes(Path(backbone.path), backbone.features) is not None
    if (released := find(recipe.teacher)) is not None:
        return released.head is not None
    if recipe.logits_weight is not None or recipe.features_weight is not None:
        return bool(recipe.logits_weight)
    return backbone.features in (*CLASSES.values(), WITH_BACKGROUND)
