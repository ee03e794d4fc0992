"""The plan: everything that will run, each value with its reason and its source.

A `Plan` is frozen, JSON, and complete, once the weights are there: `finetune` executes this object, stores it as
`plan.json`, and resumes only under an equal one. `planner` makes it; nothing here needs TensorFlow.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.dataset_info import DatasetInfo, Split
from hyperrule.planning.estimate import Estimate
from hyperrule.planning.machine import Machine
from hyperrule.recipe import Balance, Recipe, Train
from hyperrule.rule import Schedule

FORMAT = 4
HOW = ("micro_batch", "remat", "xla", "checkpoint_every")  # decisions that a resumed run may change: rounding at most
HeadInit = Literal["zeros", "probe"]
Precision = Literal["float32", "bfloat16", "float16"]

T = TypeVar("T")


class Decided(BaseModel, Generic[T]):
    """A value, why it is so, where that comes from, and whether it departs from the rule."""

    model_config = ConfigDict(frozen=True)

    value: T
    reason: str
    source: str
    deviates: bool = False


class Calibration(BaseModel):
    """What a budgeted run measured before step 0, in seconds: time gone, time of one step, of evaluation."""

    model_config = ConfigDict(frozen=True)

    elapsed: float
    step: float
    evaluation: float


class Plan(BaseModel):
    """Resolutions are in pixels; the schedule's boundaries in steps; budget and checkpoints in seconds."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    recipe: Recipe
    dataset: DatasetInfo
    backbone: BackboneInfo
    machine: Machine
    workers: int
    versions: dict[str, str]
    examples: Decided[int]
    resize: Decided[int]
    crop: Decided[int]
    evaluation_size: Decided[int]
    random_crop: Decided[bool]
    random_flip: Decided[bool]
    mixup: Decided[float]
    balance: Decided[Balance]
    batch: Decided[int]
    base_learning_rate: Decided[float]
    schedule: Decided[Schedule]
    train: Decided[Train]
    head_init: Decided[HeadInit]
    seed: Decided[int]
    precision: Decided[Precision]
    xla: Decided[bool]
    micro_batch: Decided[int]
    remat: Decided[bool]
    test_split: Decided[Split]
    eval_every: Decided[int | None]
    eval_split: Decided[Split]
    checkpoint_every: Decided[int | None]
    estimate: Estimate
    faster: tuple[str, ...]
    calibration: Calibration | None = None

    @property
    def decisions(self) -> dict[str, Decided[Any]]:
        """The decided values by name, in the order in which they are made."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Decided)}

    @property
    def deviations(self) -> dict[str, Decided[Any]]:
        """The decisions that depart from the BiT-HyperRule."""
        return {name: decided for name, decided in self.decisions.items() if decided.deviates}

    @property
    def classes(self) -> int:
        return len(self.dataset.class_names)

    def differences(self, other: "Plan") -> list[str]:
        """What would run differently under `other`, as "name: mine, not theirs"; empty if nothing."""
        mine, theirs = self._identity(), other._identity()
        return [f"{name}: {mine[name]}, not {theirs[name]}" for name in mine if mine[name] != theirs[name]]

    def _identity(self) -> dict[str, Any]:
        """Everything that can change the result; not where files lie, what it costs, nor how it is cut up."""
        return {
            "dataset sha256": self.dataset.sha256,
            "classes": self.dataset.class_names,
            "backbone sha256": self.backbone.sha256,
            "architecture": self.backbone.architecture,
            "input range": self.backbone.input_range,
            **{name: decided.value for name, decided in self.decisions.items() if name not in self.how},
        }

    @property
    def how(self) -> tuple[str, ...]:
        """Decisions that a resumed run may change: HOW, without the micro-batch where batch norm sees it."""
        own = self.backbone.as_it_is
        return tuple(name for name in HOW if name != "micro_batch") if own and own.keeps_statistics else HOW
