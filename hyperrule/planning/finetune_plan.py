"""The plan of a fine-tuning: every decided value, and what follows from it."""

import math
from pathlib import PurePath
from typing import Any, ClassVar, Literal, Self

from hyperrule import rule
from hyperrule.backbones.class_names import ClassName
from hyperrule.data.images import Examples
from hyperrule.data.listing import DatasetInfo, Split
from hyperrule.data.open import source_of
from hyperrule.planning.budget import Choice
from hyperrule.planning.training_plan import MEASURED, Decided, TrainingPlan
from hyperrule.recipe import Balance, Recipe, Train
from hyperrule.rule import Schedule
from hyperrule.support.progress import Reporter

HeadInit = Literal["zeros", "probe"]
Optimizer = Literal["SGD", "Adam"]


class Plan(TrainingPlan):
    """A fine-tuning, decided in full. The schedule's boundaries are in steps."""

    job: Literal["finetune"] = "finetune"
    recipe: Recipe
    dataset: DatasetInfo
    examples: Decided[int]
    resize: Decided[int]
    crop: Decided[int]
    random_crop: Decided[bool]
    random_flip: Decided[bool]
    mixup: Decided[float]
    balance: Decided[Balance]
    optimizer: Decided[Optimizer]
    base_lr: Decided[float]
    schedule: Decided[Schedule]
    train: Decided[Train]
    head_init: Decided[HeadInit]
    test_split: Decided[Split]
    eval_split: Decided[Split]
    held_out: Decided[int]
    faster: tuple[str, ...]
    choice: Choice | None = None

    KIND: ClassVar = "fine-tuning"

    @property
    def length(self) -> Decided[Schedule]:
        return self.schedule

    @property
    def steps(self) -> int:
        return self.schedule.value.steps

    def shrunk(self, steps: int, reason: str) -> Self:
        full = self.schedule
        schedule = Decided(
            value=full.value.stretched(steps),
            reason=reason,
            source=MEASURED,
            deviates=full.deviates or steps < self.steps,
        )
        return self.model_copy(update={"schedule": schedule})

    def shortened(self, done: int, steps: int, reason: str) -> Self:
        schedule = Decided(
            value=self.schedule.value.shortened(done, steps), reason=reason, source=MEASURED, deviates=True
        )
        return self.model_copy(update={"schedule": schedule})

    @property
    def judged(self) -> bool:
        """Whether the probe, with which training starts, is the result if training does not help."""
        return self.choice is not None and not self.choice.whole_rule and self.head_init.value == "probe"

    @property
    def least_steps(self) -> int:
        """With a probe's head, a pass over the training images: fewer steps hardly change it."""
        if not self.judged:
            return 1
        return max(2, math.ceil((self.examples.value - self.held_out.value) / self.batch.value))

    def learning_rate(self, step: int) -> float:
        return rule.learning_rate(step, self.schedule.value, self.base_lr.value)

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return tuple(ClassName("", name) for name in self.dataset.class_names)

    @property
    def run_name(self) -> str:
        return self.dataset.name

    @property
    def data_sha256(self) -> str:
        return self.dataset.sha256

    @property
    def data_name(self) -> str:
        """The data set's name, or the last part of its path."""
        name = self.dataset.name
        return name if self.dataset.location is None else PurePath(name).name or name

    @property
    def inputs(self) -> dict[str, str]:
        return {f"data set {self.dataset.name}": self.dataset.sha256, **super().inputs}

    def images(self, recipe: Recipe, reporter: Reporter) -> tuple[str, Examples, Examples]:
        source = source_of(recipe, reporter)
        return source.info.sha256, source.examples("train"), source.examples(self.test_split.value)

    @property
    def trained_on(self) -> tuple[str, ...]:
        return (self.recipe.dataset,)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.dataset.warnings

    @property
    def starts_from_measurements(self) -> bool:
        """A probe's head does: a measurement sets how many images it is fitted on."""
        return self.head_init.value == "probe"

    def _identity(self) -> dict[str, Any]:
        return {"dataset sha256": self.dataset.sha256, "classes": self.dataset.class_names, **super()._identity()}
