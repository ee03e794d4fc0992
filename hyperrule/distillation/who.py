"""Who teaches, and who learns: what a user calls them -> facts; no TensorFlow, but to look into a SavedModel."""

import os
import re
from pathlib import Path

from hyperrule.backbones.checkpoints import head_classes
from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.info import BackboneInfo
from hyperrule.backbones.zoo import CLASSES, find
from hyperrule.distill_recipe import DistillRecipe
from hyperrule.planning.distill_plan import TeacherInfo
from hyperrule.prediction.released import USUAL_SIDE, Asked, describe_classifier
from hyperrule.progress import Reporter

FROM_SCRATCH = re.compile(r"r\d+x\d+(\.\d+)?", re.IGNORECASE)
WITH_BACKGROUND = 1001  # ImageNet's classes as TensorFlow's own classifiers count them


def describe_teacher(recipe: DistillRecipe, reporter: Reporter) -> TeacherInfo:
    """Facts of a teacher: a classifier, or a network that gives features only.

    A SavedModel of unknown origin gives logits if the recipe weighs them, or if it has as many outputs as ImageNet has
    classes. What is missing is downloaded. Raises BackboneError where `describe_backbone` and
    `describe_classifier` do.
    """
    backbone = describe_backbone(recipe.teacher, reporter, input_range=recipe.teacher_range)
    if not _is_classifier(recipe, backbone):
        side = None if backbone.as_it_is is None else backbone.as_it_is.side
        return TeacherInfo(backbone=backbone, head=None, classes=0, class_names=(), resolution=side or USUAL_SIDE)
    known = describe_classifier(recipe.teacher, Asked(input_range=recipe.teacher_range), reporter)
    if known.note is not None:
        reporter.say(known.note)
    return TeacherInfo(
        backbone=known.backbone,
        head=None if known.head is None else os.fspath(known.head),
        classes=known.classes,
        class_names=known.class_names,
        resolution=known.size,
    )


def describe_student(student: str, reporter: Reporter) -> BackboneInfo:
    """Facts of a student; "r26x0.5" is one from scratch. Raises BackboneError as `describe_backbone` does."""
    return describe_backbone(f"random-{student}" if FROM_SCRATCH.fullmatch(student) else student, reporter)


def _is_classifier(recipe: DistillRecipe, backbone: BackboneInfo) -> bool:
    if backbone.as_it_is is None:
        return backbone.path is not None and head_classes(Path(backbone.path), backbone.features) is not None
    if (Path(os.path.expanduser(recipe.teacher)) / "plan.json").is_file():
        return True
    if (released := find(recipe.teacher)) is not None:
        return released.head is not None
    if recipe.logits_weight is not None or recipe.features_weight is not None:
        return bool(recipe.logits_weight)
    return backbone.features in (*CLASSES.values(), WITH_BACKGROUND)
