"""What every plan of a training has in common: decided values, and how it is run on a machine.

A plan is frozen, JSON, and complete, once the weights are there: a job executes this object, stores it as
`plan.json`, and resumes only under an equal one. Nothing here needs TensorFlow.
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
EXECUTION_FIELDS = (
    "micro_batch",
    "remat",
    "xla",
    "checkpoint_every",
)  # decisions that a resumed run may change: rounding at most
ASKED, HYPERRULE, MEASURED = "recipe", "hyperrule", "measured before step 0"  # where a decision comes from
Precision = Literal["float32", "bfloat16", "float16"]

RANDOM_WEIGHTS = "random weights"  # instead of a hash

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


class TrainingPlan(BaseModel, ABC):
    """`backbone` is what trains. Resolutions are in pixels; budget and checkpoints in seconds."""

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

    KIND: ClassVar[str]  # what people call such a training

    @property
    @abstractmethod
    def length(self) -> Decided[Any]:
        """The decision how many steps there are."""

    @property
    @abstractmethod
    def steps(self) -> int: ...

    @abstractmethod
    def shrunk(self, steps: int, reason: str) -> Self:
        """The same with the whole schedule shrunk to so many steps, by a measurement."""

    @abstractmethod
    def learning_rate(self, step: int) -> float:
        """The rate of the step with that number, from 0."""

    @property
    @abstractmethod
    def classes(self) -> tuple[ClassName, ...]:
        """What the outputs of the head mean."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(known.name for known in self.classes)

    @property
    @abstractmethod
    def run_name(self) -> str:
        """What to call the run folder where nobody says it."""

    @property
    @abstractmethod
    def data_sha256(self) -> str:
        """Of all images, their classes and splits."""

    @property
    @abstractmethod
    def data_name(self) -> str:
        """What to call the data."""

    @property
    def inputs(self) -> dict[str, str]:
        """SHA-256 of everything that goes in, by what it is."""
        return {f"backbone {self.backbone.name}": self.backbone.sha256 or RANDOM_WEIGHTS}

    @abstractmethod
    def images(self, recipe: Any, reporter: Reporter) -> tuple[str, Examples, Examples]:
        """SHA-256 of the data that the recipe, of this plan's kind, opens; what is trained on, and what is evaluated.

        Raises DataError if it cannot be used."""

    @property
    @abstractmethod
    def trained_on(self) -> tuple[str, ...]:
        """Locations or names of the data sets."""

    @property
    @abstractmethod
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the data."""

    @property
    @abstractmethod
    def starts_from_measurements(self) -> bool:
        """Whether step 0 depends on what was measured, and only once."""

    @property
    def decisions(self) -> dict[str, Decided[Any]]:
        """The decided values by name: what is learned, then how it is run."""
        common = TrainingPlan.model_fields
        own = [name for name in type(self).model_fields if name not in common]
        return {name: value for name in (*own, *common) if isinstance(value := getattr(self, name), Decided)}

    @property
    def deviations(self) -> dict[str, Decided[Any]]:
        """The decisions that depart from the BiT-HyperRule."""
        return {name: decided for name, decided in self.decisions.items() if decided.deviates}

    def differences(self, other: "TrainingPlan") -> list[str]:
        """What would run differently under `other`, as "name: mine, not theirs"; empty if nothing."""
        mine, theirs = self._identity(), other._identity()
        return [f"{name}: {mine[name]}, not {theirs.get(name)}" for name in mine if mine[name] != theirs.get(name)]

    def _identity(self) -> dict[str, Any]:
        """Everything that can change the result; not where files lie, what it costs, nor how it is cut up."""
        return {
            "job": self.job,
            "backbone sha256": self.backbone.sha256,
            "architecture": self.backbone.architecture,
            "input range": self.backbone.input_range,
            **{name: decided.value for name, decided in self.decisions.items() if name not in self.execution_fields},
        }

    @property
    def execution_fields(self) -> tuple[str, ...]:
        """Decisions that a resumed run may change: HOW, without the micro-batch where batch norm sees it."""
        own = self.backbone.opaque
        return (
            tuple(name for name in EXECUTION_FIELDS if name != "micro_batch")
            if own and own.keeps_statistics
            else EXECUTION_FIELDS
        )

    def calibrated(self, calibration: Calibration) -> Self:
        """The plan with its schedule shrunk to what fits into the budget beside everything else measured.

        Raises RecipeError if the budget leaves no time for a single step.
        """
        budget = self.recipe.budget
        assert budget is not None
        on_the_way = calibration.evaluation / self.eval_every.value if self.eval_every.value is not None else 0.0
        step_seconds = calibration.step + on_the_way
        affordable = int((budget - calibration.elapsed - calibration.evaluation) / step_seconds)
        if affordable < 1:
            least = calibration.elapsed + calibration.evaluation + step_seconds
            raise RecipeError(
                f"--budget of {duration(budget)} leaves no time for training: here, preparing takes "
                f"{duration(calibration.elapsed)} and evaluation {duration(calibration.evaluation)}. "
                f"Give more than {duration(least)}, or less to do: a smaller --crop or network."
            )
        steps = min(self.steps, affordable)
        reason = (
            f"{duration(budget)} leave {affordable} steps of {step_seconds:.2f} s: "
            f"the whole schedule, every boundary, shrunk from {self.steps} steps"
            if steps < self.steps
            else f"all {self.steps} steps fit into {duration(budget)} at {step_seconds:.2f} s each"
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
        return self.shrunk(steps, reason).model_copy(update={"estimate": spent, "calibration": calibration})

    @property
    def deterministic(self) -> bool:
        """Whether a step can be repeated in the same bits."""
        own = self.backbone.opaque
        return (own is None or not own.draws_random_numbers) and not self.xla.value
