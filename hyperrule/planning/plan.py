"""The plan of a fine-tuning: everything that will run, each value with its reason and its source.

`planner` makes it; nothing here needs TensorFlow.
"""

from typing import Any, Literal, Self

from hyperrule import rule
from hyperrule.backbones.class_names import ClassName
from hyperrule.data.dataset_info import DatasetInfo, Split
from hyperrule.planning.training_plan import MEASURED, Decided, TrainingPlan
from hyperrule.recipe import Balance, Recipe, Train
from hyperrule.rule import Schedule

HeadInit = Literal["zeros", "probe"]


class Plan(TrainingPlan):
    """The schedule's boundaries are in steps."""

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
    base_learning_rate: Decided[float]
    schedule: Decided[Schedule]
    train: Decided[Train]
    head_init: Decided[HeadInit]
    test_split: Decided[Split]
    eval_split: Decided[Split]
    faster: tuple[str, ...]

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

    def learning_rate(self, step: int) -> float:
        return rule.learning_rate(step, self.schedule.value, self.base_learning_rate.value)

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return tuple(ClassName("", name) for name in self.dataset.class_names)

    @property
    def trained_on(self) -> tuple[str, ...]:
        return (self.recipe.dataset,)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.dataset.warnings

    @property
    def starts_from_measurements(self) -> bool:
        """How many images the head's budget pays for is measured."""
        return self.head_init.value == "probe"

    def _identity(self) -> dict[str, Any]:
        return {"dataset sha256": self.dataset.sha256, "classes": self.dataset.class_names, **super()._identity()}
