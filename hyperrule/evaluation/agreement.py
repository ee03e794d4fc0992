"""Agreement of a student with its teacher on held-out images, and the accuracy of both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.special import log_softmax

from hyperrule.backbones.class_names import ClassName
from hyperrule.evaluation.label_matching import ClassIndex

Floats = npt.NDArray[np.float32]
UNKNOWN = -1


class Agreement(BaseModel):
    """Figures over held-out images, whole and without augmentation; teacher and student each use their own crop.

    `top1_agreement` is the fraction of images for which both predict the same class. `kl` is the mean
    KL(teacher || student) of their probabilities, in nats at temperature 1. `features_r2` is the fraction of the
    variance of the teacher's features that the student's explain. Figures of outputs that are not matched are None.
    `teacher_top1` and `student_top1` are top-1 accuracies on the `labelled` images, whose class is one of the
    teacher's. `feature_norm` is the mean L2 norm of the student's features.
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
        """Return the figures that are not None, for the log."""
        return {name: value for name, value in self.model_dump().items() if isinstance(value, float)}

    def __str__(self) -> str:
        parts = []
        if self.top1_agreement is not None:
            agreed = f"agrees with its teacher on {self.top1_agreement:.2%} of {self.examples} held-out images"
            parts.append(f"{agreed}, KL {self.kl:.3f}")
        if self.features_r2 is not None:
            parts.append(f"explains {self.features_r2:.1%} of the variance of its teacher's features")
        if self.student_top1 is not None:
            parts.append(
                f"top-1 {self.student_top1:.2%} on {self.labelled} labelled images (teacher {self.teacher_top1:.2%})"
            )
        return ", ".join(parts)


class Agreements(BaseModel):
    """Agreement over all held-out images, and by data set."""

    model_config = ConfigDict(frozen=True)

    overall: Agreement
    by_data_set: tuple[Agreement, ...]


@dataclass(frozen=True)
class Answers:
    """Outputs of teacher and student for N images, all float32.

    `teacher` and `student` are logits [N, classes], `errors` the mean squared errors [N] of the student's prediction of
    its teacher's standardised features; None if not matched. `norms` [N] are L2 norms of the student's features.
    """

    teacher: Floats | None
    student: Floats | None
    errors: Floats | None
    norms: Floats

    def of(self, members: npt.NDArray[np.bool_]) -> "Answers":
        """Select the images for which `members`, bool [N], is True."""
        teacher, student, errors = (
            None if each is None else each[members] for each in (self.teacher, self.student, self.errors)
        )
        return Answers(teacher, student, errors, self.norms[members])


def agreement(name: str, answers: Answers, labels: npt.NDArray[np.int64]) -> Agreement:
    """Compute the figures; `labels` int64 [N] are indices of the teacher's classes, -1 if unknown."""
    teacher, student = answers.teacher, answers.student
    figures: dict[str, float | None] = dict.fromkeys(("top1_agreement", "kl", "teacher_top1", "student_top1"))
    labelled = 0
    if teacher is not None and student is not None:
        chosen, chosen_by_student = teacher.argmax(axis=1), student.argmax(axis=1)
        known = labels != UNKNOWN
        labelled = int(known.sum())
        figures["top1_agreement"] = float(np.mean(chosen == chosen_by_student))
        figures["kl"] = float(_divergence(teacher, student).mean())
        if labelled:
            figures["teacher_top1"] = float(np.mean(chosen[known] == labels[known]))
            figures["student_top1"] = float(np.mean(chosen_by_student[known] == labels[known]))
    return Agreement(
        name=name,
        examples=len(answers.norms),
        features_r2=None if answers.errors is None else float(1 - answers.errors.mean()),
        labelled=labelled,
        feature_norm=float(answers.norms.mean()),
        **figures,
    )


def labels_among(
    names: Sequence[str], data_sets: npt.NDArray[np.int32], classes: Sequence[ClassName]
) -> npt.NDArray[np.int64]:
    """Return the index of the teacher's class for each image, int64 [N], -1 if unknown.

    `names` are the class names of the images, `data_sets` int32 [N] their data sets. A data set is matched only as a
    whole, if each of its names means exactly one of the teacher's `classes`. Numbers are names, not indices: they match
    only classes whose names are numbers.
    """
    labels, called = np.full(len(names), UNKNOWN), np.array(names, dtype=object)
    index, known = ClassIndex(classes), {each.name for each in classes}
    for data_set in np.unique(data_sets):
        members = np.flatnonzero(data_sets == data_set)
        there = set(called[members])
        if any(name.isdecimal() for name in there) and not there <= known:
            continue
        found = {name: index.find(name) for name in there}
        if all(name and len(meant) == 1 for name, meant in found.items()):
            labels[members] = [found[name][0] for name in called[members]]
    return labels


def _divergence(teacher: Floats, student: Floats) -> npt.NDArray[np.float64]:
    """Return KL(teacher || student) [N] of the softmax of logits [N, classes]."""
    log_student, log_teacher = (log_softmax(logits.astype(np.float64), axis=1) for logits in (student, teacher))
    divergence: npt.NDArray[np.float64] = np.sum(np.exp(log_teacher) * (log_teacher - log_student), axis=1)
    return divergence


def headline(overall: Agreement) -> str:
    """Return the figures in one line."""
    return f"student {overall}"
