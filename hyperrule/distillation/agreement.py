"""How well a student agrees with its teacher on images that were held out, and how right both are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.class_names import ClassName
from hyperrule.distillation.student import kl_divergence
from hyperrule.distillation.teacher import Lesson
from hyperrule.prediction.labels import ClassIndex

COLUMNS = 5  # of `judge`
UNKNOWN = -1


class Agreement(BaseModel):
    """Figures over held-out images, seen whole and without augmentation.

    `top1_agreement` is the fraction of images for which both name the same class, `kl` the mean divergence of the
    student's probabilities from the teacher's in nats at temperature 1, `features_r2` the part of the variance of
    the teacher's features that the student's explain; None for what is not matched. Of the `labelled` images, whose
    class is one of the teacher's, `teacher_top1` and `student_top1` are the fractions that are named rightly.
    `feature_norm` is the mean L2 norm of the student's features.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    examples: int
    top1_agreement: float | None
    kl: float | None
    features_r2: float | None
    labelled: int
    teacher_top1: float | None
    student_top1: float | None
    feature_norm: float

    @property
    def figures(self) -> dict[str, float]:
        """Those that there are, for the log."""
        return {name: value for name, value in self.model_dump().items() if isinstance(value, float)}

    def __str__(self) -> str:
        said = []
        if self.top1_agreement is not None:
            said.append(
                f"agrees with its teacher on {self.top1_agreement:.2%} of {self.examples} images, KL {self.kl:.3f}"
            )
        if self.features_r2 is not None:
            said.append(f"explains {self.features_r2:.1%} of its features' variance")
        if self.student_top1 is not None:
            said.append(
                f"top-1 {self.student_top1:.2%} on {self.labelled} labelled images (teacher {self.teacher_top1:.2%})"
            )
        return ", ".join(said)


def judge(lesson: Lesson, logits: tf.Tensor | None, errors: tf.Tensor | None, features: tf.Tensor) -> tf.Tensor:
    """One row for each of M images, float32 [M, 5]: KL, the teacher's class, the student's class, mean squared error
    of its standardised features, norm of the student's features; 0 for what there is not."""
    nothing = tf.zeros(tf.shape(features)[0])
    told = [nothing] * 3
    if logits is not None and lesson.logits is not None:
        chosen = [tf.cast(tf.argmax(each, axis=1), tf.float32) for each in (lesson.logits, logits)]
        told = [kl_divergence(lesson.logits, logits, 1.0), *chosen]
    return tf.stack([*told, nothing if errors is None else errors, tf.norm(features, axis=1)], axis=1)


def agreement(
    name: str, judged: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], has_logits: bool, has_features: bool
) -> Agreement:
    """Figures of what `judge` said of N images, whose `labels` are the teacher's classes or -1."""
    kl, teacher, student, errors, norms = judged.T
    known = labels != UNKNOWN
    labelled = int(known.sum()) if has_logits else 0

    def right(chosen: npt.NDArray[np.float32]) -> float | None:
        return float(np.mean(chosen[known] == labels[known])) if labelled else None

    return Agreement(
        name=name,
        examples=len(judged),
        top1_agreement=float(np.mean(teacher == student)) if has_logits else None,
        kl=float(kl.mean()) if has_logits else None,
        features_r2=float(1 - errors.mean()) if has_features else None,
        labelled=labelled,
        teacher_top1=right(teacher),
        student_top1=right(student),
        feature_norm=float(norms.mean()),
    )


def labels_among(
    names: Sequence[str], data_sets: npt.NDArray[np.int32], classes: Sequence[ClassName]
) -> npt.NDArray[np.int64]:
    """Which of the teacher's `classes` the images' class names mean, -1 for none: a data set counts as a whole, if each
    of its names means one class."""
    labels, called = np.full(len(names), UNKNOWN), np.array(names, dtype=object)
    index = ClassIndex(classes)
    for data_set in np.unique(data_sets):
        members = np.flatnonzero(data_sets == data_set)
        found = {name: index.find(name) for name in set(called[members])}
        if all(name and len(meant) == 1 for name, meant in found.items()):
            labels[members] = [found[name][0] for name in called[members]]
    return labels
