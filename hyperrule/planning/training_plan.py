"""The part of a plan that all kinds of training share: decided values, and how they run on a machine.

A plan is frozen and complete: beside it, a job needs only weights and data. The job stores it as `plan.json` and
resumes only under an equal plan. Nothing here needs TensorFlow.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.class_names import ClassName
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.errors import RecipeError
from hyperrule.planning.cost import Estimate
from hyperrule.planning.machine.machine import Machine
from hyperrule.recipe import TrainingRecipe
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import duration

FORMAT = 5
# Decisions that a resumed run may change: they affect rounding at most.
EXECUTION_FIELDS = ("micro_batch", "remat", "xla", "checkpoint_every")
ASKED, HYPERRULE, MEASURED = "recipe", "hyperrule", "measured before step 0"  # where a decision comes from
Precision = Literal["float32", "bfloat16", "float16"]

FINISHING = 15.0  # seconds to write, export, compare in a fresh process, and report; 10 to 14 measured
RANDOM_WEIGHTS = "random weights"  # instead of a hash

T = TypeVar("T")


class Decided(BaseModel, Generic[T]):
    """A value, the reason for it, the source of that reason, and whether it deviates from the BiT-HyperRule."""

    model_config = ConfigDict(frozen=True)

    value: T
    reason: str
    source: str
    deviates: bool = False


class Calibration(BaseModel):
    """Seconds that a budgeted run measured before step 0: elapsed time, one training step, one evaluation.

    Where steps became slower later, `shortened` lists after how many steps the schedule was shortened, and to how many.
    """

    model_config = ConfigDict(frozen=True)

    elapsed: float
    step: float
    evaluation: float
    shortened: tuple[tuple[int, int], ...] = ()


class TrainingPlan(BaseModel, ABC):
    """A training, decided in full. `backbone` is the network that trains.

    Resolutions are in pixels, `eval_every` and `checkpoint_every` in steps, the recipe's budget in seconds.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    job: str
    recipe: TrainingRecipe
    backbone: BackboneInfo
    machine: Machine
    workers: int
    versions: dict[str, str]
    batch: Decided[int]
    evaluation_size: Decided[int]
    seed: Decided[int]
    precision: Decided[Precision]
    xla: Decided[bool]
    micro_batch: Decided[int]
    remat: Decided[bool]
    eval_every: Decided[int | None]
    checkpoint_every: Decided[int | None]
    estimate: Estimate
    calibration: Calibration | None = None

    KIND: ClassVar[str]  # the name of this kind of training, for messages

    @property
    @abstractmethod
    def length(self) -> Decided[Any]:
        """The decision that sets the number of steps."""

    @property
    @abstractmethod
    def steps(self) -> int: ...

    @abstractmethod
    def shrunk(self, steps: int, reason: str) -> Self:
        """Return the plan with its whole schedule shrunk to `steps`, because of a measurement."""

    @abstractmethod
    def shortened(self, done: int, steps: int, reason: str) -> Self:
        """Return the plan with the rest of its schedule, after `done` steps, scaled to end after `steps` steps."""

    @abstractmethod
    def learning_rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""

    @property
    @abstractmethod
    def classes(self) -> tuple[ClassName, ...]:
        """The class of each output of the head, in order."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(known.name for known in self.classes)

    @property
    @abstractmethod
    def run_name(self) -> str:
        """The default name of the run folder."""

    @property
    @abstractmethod
    def data_sha256(self) -> str:
        """SHA-256 of all images, their classes and splits."""

    @property
    @abstractmethod
    def data_name(self) -> str:
        """The name of the data, for people."""

    @property
    def inputs(self) -> dict[str, str]:
        """The SHA-256 of each input of the training, by a description of it."""
        return {f"backbone {self.backbone.name}": self.backbone.sha256 or RANDOM_WEIGHTS}

    @abstractmethod
    def images(self, recipe: Any, reporter: Reporter) -> tuple[str, Examples, Examples]:
        """Open the data of `recipe`, a recipe of this plan's kind: its SHA-256, training examples, evaluated examples.

        Raises DataError if the data cannot be used.
        """

    @property
    @abstractmethod
    def trained_on(self) -> tuple[str, ...]:
        """Locations or names of the data sets."""

    @property
    @abstractmethod
    def warnings(self) -> tuple[str, ...]:
        """Problems with the data, one a line."""

    @property
    @abstractmethod
    def starts_from_measurements(self) -> bool:
        """Whether step 0 depends on a measurement that is made only once, when the run starts."""

    @property
    def decisions(self) -> dict[str, Decided[Any]]:
        """The decided values by name: first those that set what is learned, then those that set how it runs."""
        common = TrainingPlan.model_fields
        own = [name for name in type(self).model_fields if name not in common]
        return {name: value for name in (*own, *common) if isinstance(value := getattr(self, name), Decided)}

    @property
    def deviations(self) -> dict[str, Decided[Any]]:
        """The decisions that depart from the BiT-HyperRule."""
        return {name: decided for name, decided in self.decisions.items() if decided.deviates}

    def differences(self, other: "TrainingPlan") -> list[str]:
        """List what differs from `other` and can change the result, each as "name: mine, not theirs"."""
        mine, theirs = self._identity(), other._identity()
        return [f"{name}: {mine[name]}, not {theirs.get(name)}" for name in mine if mine[name] != theirs.get(name)]

    def _identity(self) -> dict[str, Any]:
        """Everything that can change the result: neither locations of files nor costs nor the micro-batch."""
        return {
            "job": self.job,
            "backbone sha256": self.backbone.sha256,
            "architecture": self.backbone.architecture,
            "input range": self.backbone.input_range,
            **{name: decided.value for name, decided in self.decisions.items() if name not in self.execution_fields},
        }

    @property
    def execution_fields(self) -> tuple[str, ...]:
        """Decisions that a resumed run may change: not the micro-batch if batch norm depends on it."""
        fixed = ("micro_batch",) if self.backbone.opaque and self.backbone.opaque.keeps_statistics else ()
        return tuple(name for name in EXECUTION_FIELDS if name not in fixed)

    def calibrated(self, calibration: Calibration) -> Self:
        """Return the plan with its schedule shrunk to the steps for which the budget leaves time.

        Raises RecipeError if the budget leaves no time for a single step, and the start is no result by itself.
        """
        budget = self.recipe.budget
        assert budget is not None
        on_the_way = calibration.evaluation / self.eval_every.value if self.eval_every.value is not None else 0.0
        step_seconds = calibration.step + on_the_way
        left = budget - calibration.elapsed - calibration.evaluation - FINISHING
        affordable = max(0, int(left / step_seconds))
        if affordable < self.least_steps:
            affordable = 0
        if affordable == 0 and self.least_steps == 1:
            least = calibration.elapsed + calibration.evaluation + FINISHING + step_seconds
            raise RecipeError(
                f"--budget of {duration(budget)} leaves no time for training: here, preparation takes "
                f"{duration(calibration.elapsed)} and evaluation {duration(calibration.evaluation)}. "
                f"Set more than {duration(least)}, or a smaller --crop or network."
            )
        steps = min(self.steps, affordable)
        reason = (
            f"{duration(budget)} leave no time for {self.least_steps} steps of {step_seconds:.2f} s, a pass over the "
            "images: the probe is the result"
            if steps == 0
            else f"{duration(budget)} leave time for {affordable} steps of {step_seconds:.2f} s: "
            f"the whole schedule, with every boundary, is shrunk from {self.steps} steps"
            if steps < self.steps
            else f"all {self.steps} steps fit in {duration(budget)} at {step_seconds:.2f} s each"
        )
        spent = self.estimate.model_copy(
            update={
                "steps": steps,
                "images": steps * self.batch.value,
                "training_seconds": steps * step_seconds,
                "evaluation_seconds": calibration.evaluation,
                "basis": MEASURED,
            }
        )
        plan = self.shrunk(steps, reason).model_copy(update={"estimate": spent, "calibration": calibration})
        for done, fewer in calibration.shortened:
            plan = plan.shortened(done, fewer, plan.length.reason)
        return plan

    def slowed(self, done: int, steps: int, reason: str) -> Self:
        """Return the calibrated plan shortened after `done` steps to `steps`, with a note of it in the calibration."""
        assert self.calibration is not None
        shortened = (*self.calibration.shortened, (done, steps))
        calibration = self.calibration.model_copy(update={"shortened": shortened})
        return self.shortened(done, steps, reason).model_copy(update={"calibration": calibration})

    @property
    def least_steps(self) -> int:
        """The number of steps below which training is not worth it; 1 if the start is no result by itself."""
        return 1

    @property
    def deterministic(self) -> bool:
        """Whether repeating a step gives the same bits."""
        own = self.backbone.opaque
        return (own is None or not own.draws_random_numbers) and not self.xla.value
