"""The plan of a distillation by function matching, and `make_distill_plan`, which decides every value of it.

Recipe + pool + teacher + student + machine -> DistillPlan, without TensorFlow. Values that the recipe leaves open
follow "Knowledge distillation: A good teacher is patient and consistent", arXiv 2106.05237, whose code is
google-research/big_vision, `configs/proj/distill`.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from hyperrule import rule
from hyperrule.backbones.class_names import ClassName
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.open import pool_of
from hyperrule.data.pool import PoolInfo
from hyperrule.data.sources.kinds import located
from hyperrule.errors import RecipeError
from hyperrule.planning.cost import MASTER, Estimate, estimate_inference
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.planner import Planner, absolute, located_backbone
from hyperrule.planning.training_plan import (
    ASKED,
    HYPERRULE,
    MEASURED,
    RANDOM_WEIGHTS,
    Decided,
    Precision,
    TrainingPlan,
)
from hyperrule.recipe import DistillRecipe
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import duration

F = "arXiv 2106.05237"  # the source of a value that the paper sets
BATCH = 512
RATE = 0.003  # the middle one of the paper's values for small data sets, Table 4
EPOCHS = 300  # the shortest of the paper's schedules for ImageNet and Pets
WARMUP = 1500  # steps; configs/proj/distill/bigsweep_*.py
MOST_WARMUP = 0.1  # of the steps of a schedule


class TeacherInfo(BaseModel):
    """A teacher network with `classes` logits; 0 if it gives features only.

    `head` is the .npz file with the head's arrays. It is None if there is no head, or if the backbone itself outputs
    the logits.
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
        """Width of the features that can be matched; 0 if the network gives logits only."""
        gives_logits_only = self.backbone.opaque is not None and self.classes and self.head is None
        return 0 if gives_logits_only else self.backbone.features


class Cosine(BaseModel):
    """A schedule of the learning rate: a linear warm-up, then half a cosine down to 0."""

    model_config = ConfigDict(frozen=True)

    steps: int
    warmup: int

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.warmup} of warm-up"

    def factor(self, step: int) -> float:
        """Return the fraction of the highest learning rate at `step`, counted from 0.

        >>> [round(Cosine(steps=6, warmup=2).factor(step), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))


class DistillPlan(TrainingPlan):
    """A distillation, decided in full. `backbone` is the student, a BiT."""

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
    base_lr: Decided[float]
    weight_decay: Decided[float]
    schedule: Decided[Cosine]
    feature_norm: Decided[float | None]

    KIND: ClassVar = "distillation"

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

    def shortened(self, done: int, steps: int, reason: str) -> Self:
        """Return the plan with a cosine over fewer steps: the rate falls at once, a little."""
        shorter = Cosine(steps=steps, warmup=min(self.schedule.value.warmup, max(0, steps - 1)))
        return self.model_copy(update={"schedule": Decided(value=shorter, reason=reason, source=MEASURED)})

    def learning_rate(self, step: int) -> float:
        return self.base_lr.value * self.schedule.value.factor(step)

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return self.teacher.class_names

    @property
    def run_name(self) -> str:
        return f"{self.teacher.name}-{self.backbone.architecture}".lower()

    @property
    def data_sha256(self) -> str:
        return self.pool.sha256

    @property
    def data_name(self) -> str:
        return ", ".join(part.name for part in self.pool.parts)

    @property
    def inputs(self) -> dict[str, str]:
        parts = {f"data set {part.name}": part.sha256 for part in self.pool.parts}
        teacher = {f"teacher {self.teacher.name}": self.teacher.backbone.sha256 or RANDOM_WEIGHTS}
        return parts | teacher | super().inputs

    def images(self, recipe: DistillRecipe, reporter: Reporter) -> tuple[str, Examples, Examples]:
        pool = pool_of(recipe, reporter)
        return pool.info.sha256, pool.training, pool.held_out

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
        """Matching features does: a sample of the teacher's features sets their standardisation."""
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


def make_distill_plan(
    recipe: DistillRecipe, pool: PoolInfo, teacher: TeacherInfo, student: BackboneInfo, machine: Machine, workers: int
) -> DistillPlan:
    """Decide everything that the recipe leaves open. Raises UserError if the request cannot be met."""
    recipe = recipe.model_copy(
        update={
            "dataset": tuple(map(located, recipe.dataset)),
            "teacher": located_backbone(recipe.teacher, teacher.backbone),
            "student": located_backbone(recipe.student, student),
            "data_dir": absolute(recipe.data_dir),
        }
    )
    return DistillPlanner(recipe, student, machine, workers, pool, teacher).plan()


@dataclass(frozen=True)
class DistillPlanner(Planner[DistillRecipe]):
    """Decides a distillation; `backbone` is the student."""

    pool: PoolInfo
    teacher: TeacherInfo

    SEEDED: ClassVar = "order, augmentation and mixup"

    def plan(self) -> DistillPlan:
        if self.backbone.network is None:
            raise RecipeError(
                f"the student must be a BiT; {self.backbone.name} is not. Use --student r26x0.5 or r50x1."
            )
        crop = self._crop()
        teacher_crop = self._teacher_crop(crop.value)
        logits_weight, features_weight = self._weights()
        batch = self._given("batch", BATCH, F)
        schedule = self._schedule(batch.value)
        execution = self.execution(crop.value, batch.value, schedule.value.steps, evaluated=0)
        estimate: Estimate = execution["estimate"]
        taught = estimate_inference(self.teacher.backbone, teacher_crop.value, estimate.images, self.machine)
        if estimate.training_seconds is not None and taught is not None:
            execution["estimate"] = estimate.model_copy(update={"training_seconds": estimate.training_seconds + taught})
        return DistillPlan(
            **execution,
            pool=self.pool,
            teacher=self.teacher,
            examples=Decided(
                value=self.pool.examples,
                reason=f"training images of {len(self.pool.parts)} data sets, less 2 % held out",
                source="data set",
            ),
            shares=self._shares(),
            crop=crop,
            evaluation_size=Decided(
                value=crop.value, reason="the resolution that the student was trained at", source=HYPERRULE
            ),
            teacher_crop=teacher_crop,
            least_area=self._given("least_area", 0.05, F),
            random_flip=self._random_flip(),
            mixup=self._given("mixup", True, F),
            logits_weight=logits_weight,
            features_weight=features_weight,
            temperature=self._given("temperature", 1.0, F),
            base_lr=self._base_lr(batch.value),
            weight_decay=self._given("weight_decay", 1e-4, F),
            schedule=schedule,
            feature_norm=self._feature_norm(),
            batch=batch,
        )

    @property
    def other_memory(self) -> int:
        """Bytes of the teacher's weights, and of Adam's second moments, which SGD does not keep."""
        return MASTER * (self.teacher.backbone.parameters + self.backbone.parameters)

    def xla(self, precision: Precision) -> Decided[bool]:
        if self.teacher.backbone.opaque is not None and self.recipe.xla == "auto":
            return Decided(
                value=False, reason="the teacher is a SavedModel; XLA cannot compile every one", source=HYPERRULE
            )
        return super().xla(precision)

    def _given(self, option: str, default: Any, source: str) -> Decided[Any]:
        """Return the recipe's value if it has one, else `default`, the paper's."""
        asked = getattr(self.recipe, option)
        if asked is None or asked == default:
            return Decided(value=default, reason="as in the paper", source=source)
        return Decided(value=asked, reason=f"requested; the paper has {default}", source=ASKED)

    def _shares(self) -> Decided[tuple[int, ...] | None]:
        if self.recipe.shares is None:
            return Decided(value=None, reason="every image is sampled equally often", source=HYPERRULE)
        return Decided(value=self.recipe.shares, reason="share of samples from each data set, requested", source=ASKED)

    def _crop(self) -> Decided[int]:
        if self.recipe.crop is not None:
            return Decided(value=self.recipe.crop, reason="requested", source=ASKED)
        small = rule.is_small(self.pool.height, self.pool.width)
        reason = f"the median image is {self.pool.height} x {self.pool.width} px; 128 for small images, else 224"
        return Decided(value=128 if small else 224, reason=reason, source=HYPERRULE)

    def _teacher_crop(self, crop: int) -> Decided[int]:
        own = self.teacher.backbone.opaque
        if own is not None and own.side is not None:
            if self.recipe.teacher_crop not in (None, own.side):
                raise RecipeError(
                    f"teacher {self.teacher.name} takes images of {own.side} x {own.side} pixels only. "
                    f"Received: teacher_crop {self.recipe.teacher_crop}."
                )
            return Decided(value=own.side, reason="the only size that this teacher takes", source="teacher")
        if self.recipe.teacher_crop is not None:
            return Decided(value=self.recipe.teacher_crop, reason="requested", source=ASKED)
        return Decided(value=crop, reason="teacher and student see the same pixels", source=F)

    def _weights(self) -> tuple[Decided[float], Decided[float]]:
        """Return the weights of logits and of features in the loss."""
        classes, features = self.teacher.classes, self.teacher.features
        logits, matched = self.recipe.logits_weight, self.recipe.features_weight
        if logits and not classes:
            raise RecipeError(
                f"teacher {self.teacher.name} has no softmax head, so it gives no logits: leave out --logits-weight."
            )
        if matched and not features:
            raise RecipeError(
                f"teacher {self.teacher.name} gives logits only, no features: leave out --features-weight."
            )
        if logits == 0 and not features:
            raise RecipeError(f"teacher {self.teacher.name} gives logits only: --logits-weight must not be 0.")
        if not classes:
            if matched == 0:
                raise RecipeError(f"teacher {self.teacher.name} gives features only: --features-weight must not be 0.")
            reason = "the teacher has no softmax head: only its features can be matched"
            return (
                Decided(value=0.0, reason=reason, source="teacher"),
                Decided(value=matched or 1.0, reason=reason, source=ASKED if matched else "teacher"),
            )
        of_logits: Decided[float] = self._given("logits_weight", 1.0, F)
        if matched is not None:
            return of_logits, Decided(value=matched, reason="requested; the paper matches logits alone", source=ASKED)
        return of_logits, Decided(
            value=0.0 if of_logits.value else 1.0,
            reason="the paper matches logits alone" if of_logits.value else "logits are not matched",
            source=F if of_logits.value else HYPERRULE,
        )

    def _random_flip(self) -> Decided[bool]:
        if self.recipe.random_flip is None:
            return Decided(value=True, reason="as in the paper", source=F)
        return Decided(value=self.recipe.random_flip, reason="requested", source=ASKED)

    def _base_lr(self, batch: int) -> Decided[float]:
        if self.recipe.base_lr is not None:
            return Decided(value=self.recipe.base_lr, reason="requested", source=ASKED)
        if batch == BATCH:
            return Decided(value=RATE, reason="the middle one of the paper's values", source=F)
        reason = f"the paper's {RATE} x sqrt({batch}/{BATCH}), Adam's scaling with the batch size"
        return Decided(value=float(f"{RATE * math.sqrt(batch / BATCH):.2g}"), reason=reason, source=HYPERRULE)

    def _schedule(self, batch: int) -> Decided[Cosine]:
        recipe, source = self.recipe, ASKED
        if recipe.steps is not None:
            steps, reason = recipe.steps, f"{recipe.steps} steps requested"
        else:
            epochs = EPOCHS if recipe.epochs is None else recipe.epochs
            steps = max(1, math.ceil(epochs * self.pool.examples / batch))
            reason = f"{epochs:g} epochs of {self.pool.examples} images"
            if recipe.epochs is None:
                source = F
                reason += "; longer is better, the paper goes to 100,000 epochs"
        if recipe.budget is not None:
            reason += f"; a measurement before step 0 will shrink it to {duration(recipe.budget)}"
        warmup = min(WARMUP, int(MOST_WARMUP * steps)) if recipe.warmup is None else recipe.warmup
        if warmup >= steps:
            raise RecipeError(f"warmup must be shorter than the {steps} steps. Received: {warmup}.")
        return Decided(value=Cosine(steps=steps, warmup=warmup), reason=reason, source=source)

    def _feature_norm(self) -> Decided[float | None]:
        if self.recipe.feature_norm is not None:
            reason = "mean L2 norm, requested; the scale of features is free and sets how fast a new head learns"
            return Decided(value=self.recipe.feature_norm, reason=reason, source=ASKED)
        return Decided(value=None, reason="features keep the scale that training gave them", source=HYPERRULE)

    def evaluated_once(self) -> Decided[int | None]:
        return Decided(value=None, reason="agreement is measured once, at the end", source=HYPERRULE)
