"""The plan of a distillation by function matching (arXiv 2106.05237): who teaches whom, on what images, and how."""

import hashlib
import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.class_names import ClassName
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.pool import PoolInfo
from hyperrule.planning.training_plan import MEASURED, Decided, TrainingPlan
from hyperrule.recipe import DistillRecipe


class TeacherInfo(BaseModel):
    """A network with `classes` logits, 0 where it gives features only.

    `head` is the .npz with the head's arrays, None where there is none, or where the backbone's outputs are the logits.
    """

    model_config = ConfigDict(frozen=True)

    backbone: BackboneInfo
    head: str | None
    classes: int
    class_names: tuple[ClassName, ...]

    @property
    def name(self) -> str:
        return self.backbone.name

    @property
    def features(self) -> int:
        """Width of the features that can be matched; 0 where there are only logits."""
        gives_logits_only = self.backbone.as_it_is is not None and self.classes and self.head is None
        return 0 if gives_logits_only else self.backbone.features


class Cosine(BaseModel):
    """A linear warm-up, then half a cosine down to 0."""

    model_config = ConfigDict(frozen=True)

    steps: int
    warmup: int

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.warmup} of warm-up"

    def factor(self, step: int) -> float:
        """Of the highest rate, at the step with that number, from 0.

        >>> [round(Cosine(steps=6, warmup=2).factor(step), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))


class DistillPlan(TrainingPlan):
    """`backbone` is the student, which is a BiT."""

    job: Literal["distill"] = "distill"
    recipe: DistillRecipe
    pool: PoolInfo
    teacher: TeacherInfo
    examples: Decided[int]
    shares: Decided[tuple[int, ...] | None]
    crop: Decided[int]
    teacher_crop: Decided[int]
    least_area: Decided[float]
    random_flip: Decided[bool]
    mixup: Decided[bool]
    logits_weight: Decided[float]
    features_weight: Decided[float]
    temperature: Decided[float]
    base_learning_rate: Decided[float]
    weight_decay: Decided[float]
    schedule: Decided[Cosine]
    feature_norm: Decided[float | None]

    @property
    def length(self) -> Decided[Cosine]:
        return self.schedule

    @property
    def steps(self) -> int:
        return self.schedule.value.steps

    def shrunk(self, steps: int, reason: str) -> Self:
        full = self.schedule.value
        shorter = Cosine(steps=steps, warmup=full.warmup * steps // full.steps)
        return self.model_copy(update={"schedule": Decided(value=shorter, reason=reason, source=MEASURED)})

    def learning_rate(self, step: int) -> float:
        return self.base_learning_rate.value * self.schedule.value.factor(step)

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return self.teacher.class_names

    @property
    def trained_on(self) -> tuple[str, ...]:
        return self.recipe.dataset

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(
            f"{len(part.skipped)} images of {part.name} are left out" for part in self.pool.parts if part.skipped
        )

    @property
    def starts_from_measurements(self) -> bool:
        """The teacher's features are standardised by what a sample of them is like."""
        return self.features_weight.value > 0

    def _identity(self) -> dict[str, Any]:
        names = hashlib.sha256("\n".join(self.class_names).encode()).hexdigest()
        return {
            "pool sha256": self.pool.sha256,
            "teacher sha256": self.teacher.backbone.sha256,
            "teacher's architecture": self.teacher.backbone.architecture,
            "teacher's range": self.teacher.backbone.input_range,
            "sha256 of the classes": names,
            **super()._identity(),
        }
