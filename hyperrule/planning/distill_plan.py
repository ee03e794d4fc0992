"""The plan of a distillation by function matching (arXiv 2106.05237): who teaches whom, on what images, and how."""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.class_names import ClassName
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.pool import PoolInfo
from hyperrule.distill_recipe import DistillRecipe
from hyperrule.planning.training_plan import MEASURED, Decided, TrainingPlan


class TeacherInfo(BaseModel):
    """`head` is the .npz with the head's arrays, None where the backbone's outputs are the logits, or where it has
    `classes` 0 and gives features only. `resolution` is the side in pixels of the images that it is for."""

    model_config = ConfigDict(frozen=True)

    backbone: BackboneInfo
    head: str | None
    classes: int
    class_names: tuple[ClassName, ...]
    resolution: int

    @property
    def name(self) -> str:
        return self.backbone.name

    @property
    def features(self) -> int:
        """Width of the features that can be matched; 0 where there are only logits."""
        return self.backbone.features if self.head is not None or not self.classes else 0


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
        return {
            "pool sha256": self.pool.sha256,
            "teacher sha256": self.teacher.backbone.sha256,
            "teacher's range": self.teacher.backbone.input_range,
            "classes": self.class_names,
            **super()._identity(),
        }
