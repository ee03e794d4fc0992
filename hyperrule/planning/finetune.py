"""The plan of a fine-tuning, and `make_plan`, which decides every value of it with a reason and a source.

Recipe + data facts + backbone facts + machine facts -> Plan, without TensorFlow.
"""

import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar, Literal, Self

from hyperrule import rule
from hyperrule.backbones.class_names import ClassName
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.listing import DatasetInfo, Split
from hyperrule.data.open import source_of
from hyperrule.data.selection import few_shot
from hyperrule.data.source import Source
from hyperrule.data.sources.kinds import located
from hyperrule.errors import RecipeError
from hyperrule.planning.cost import Estimate
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.planner import Planner, absolute, located_backbone
from hyperrule.planning.training_plan import ASKED, HYPERRULE, MEASURED, Decided, Precision, TrainingPlan
from hyperrule.recipe import Balance, Recipe, Train
from hyperrule.rule import Schedule
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import duration

CODE = "google-research/big_transfer"
PAPER = "arXiv 1912.11370v3, section 3.3 and supplement F"
FAST_CROP = 128  # the rule's crop for small images

HeadInit = Literal["zeros", "probe"]


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
    base_lr: Decided[float]
    schedule: Decided[Schedule]
    train: Decided[Train]
    head_init: Decided[HeadInit]
    test_split: Decided[Split]
    eval_split: Decided[Split]
    faster: tuple[str, ...]

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


def training_examples(recipe: Recipe, source: Source) -> Examples:
    """Return the training examples: the whole split, or the recipe's balanced subset of it."""
    examples = source.examples("train")
    if recipe.examples_per_class is None:
        return examples
    return examples.take(few_shot(examples.labels, source.info.class_names, recipe.examples_per_class, recipe.seed))


def make_plan(recipe: Recipe, source: Source, backbone: BackboneInfo, machine: Machine, workers: int = 1) -> Plan:
    """Decide everything that the recipe leaves open, for `workers` processes with such a machine each.

    Raises UserError if the request cannot be met.
    """
    recipe = recipe.model_copy(
        update={
            "dataset": located(recipe.dataset),
            "backbone": located_backbone(recipe.backbone, backbone),
            "data_dir": absolute(recipe.data_dir),
            "exclude": absolute(recipe.exclude),
        }
    )
    examples = len(training_examples(recipe, source))
    return FinetunePlanner(recipe, backbone, machine, workers, source.info, examples).plan()


@dataclass(frozen=True)
class FinetunePlanner(Planner[Recipe]):
    """Decides a fine-tuning; `examples` is the number of training images."""

    dataset: DatasetInfo
    examples: int

    SEEDED: ClassVar = "subset, order, augmentation and mixup"

    def plan(self) -> Plan:
        batch = self._batch()
        schedule = self._schedule(batch.value)
        resize, crop = self._resolution()
        train = self._train()
        test_split = self._test_split()
        execution = self.execution(
            crop.value,
            batch.value,
            schedule.value.steps,
            evaluated=self.dataset.splits[test_split.value].examples,
            passes=1 if train.value == "head" else 3,
        )
        return Plan(
            **execution,
            dataset=self.dataset,
            examples=self._examples(),
            resize=resize,
            crop=crop,
            evaluation_size=Decided(
                value=crop.value, reason="test images are resized directly to the crop size", source=CODE
            ),
            random_crop=self._augmentation("crop", self.recipe.random_crop),
            random_flip=self._augmentation("flip", self.recipe.random_flip),
            mixup=self._mixup(),
            balance=self._balance(),
            batch=batch,
            base_lr=self._base_lr(batch.value),
            schedule=schedule,
            train=train,
            head_init=self._head_init(),
            test_split=test_split,
            eval_split=self._eval_split(test_split.value),
            faster=tuple(self._faster(execution["estimate"], crop.value, execution["precision"].value)),
        )

    def _examples(self) -> Decided[int]:
        of_train = f"training images of {self.dataset.name}, {self.dataset.splits['train'].origin}"
        if (per_class := self.recipe.examples_per_class) is not None:
            of_each = (
                f"{per_class} of each of {len(self.dataset.class_names)} classes, sampled with seed {self.recipe.seed}"
            )
            reason = f"{of_each}, from the {of_train}"
            return Decided(value=self.examples, reason=reason, source=ASKED)
        return Decided(value=self.examples, reason=of_train, source="data set")

    def _resolution(self) -> tuple[Decided[int], Decided[int]]:
        if self.backbone.opaque is not None and (side := self.backbone.opaque.side) is not None:
            return self._fixed_resolution(side)
        height, width = self.dataset.height, self.dataset.width
        value = rule.resolution(height, width, self.recipe.rule, self.backbone.architecture)
        size = "small" if rule.is_small(height, width) else "large"
        reason = f"the median image is {height} x {width} px, which is {size} (limit: 96 x 96)"
        crop = self._asked("crop", value.crop, reason, self._rule_source())
        if self.recipe.crop is not None and self.recipe.resize is None:
            side = max(round(crop.value * value.resize / value.crop), crop.value)
            resize = Decided(
                value=side,
                reason=f"the rule's ratio, {value.resize} to {value.crop}, for crop {crop.value}",
                source=HYPERRULE,
            )
            return resize, crop
        resize = self._asked("resize", value.resize, reason, self._rule_source())
        if resize.value < crop.value:
            raise RecipeError(
                f"resize must be at least the crop of {crop.value}. Received: {resize.value}. Set crop too."
            )
        return resize, crop

    def _fixed_resolution(self, side: int) -> tuple[Decided[int], Decided[int]]:
        """For a SavedModel that takes one size only."""
        if self.recipe.crop not in (None, side):
            raise RecipeError(
                f"{self.backbone.name} takes images of {side} x {side} pixels only. Received: crop {self.recipe.crop}."
            )
        small = rule.resolution(1, 1)
        crop = Decided(value=side, reason="the only size that this backbone takes", source="backbone", deviates=True)
        reason = f"the rule's ratio, {small.resize} to {small.crop}, for crop {side}"
        resize = self._asked("resize", round(side * small.resize / small.crop), reason, HYPERRULE)
        return resize, crop

    def _augmentation(self, name: str, asked: bool | None) -> Decided[bool]:
        if asked is not None:
            return Decided(value=asked, reason="requested", source=ASKED, deviates=not asked)
        if (reason := self.dataset.destroys_label.get(name)) is not None:  # type: ignore[call-overload]
            return Decided(value=False, reason=reason, source="data set", deviates=True)
        return Decided(value=True, reason="the rule augments every data set this way", source=self._rule_source())

    def _mixup(self) -> Decided[float]:
        reason = f"{self._regime()} data set; mixup from 20,000 examples"
        return self._asked("mixup", rule.mixup_alpha(self.examples), reason, self._rule_source())

    def _balance(self) -> Decided[Balance]:
        if (asked := self.recipe.balance) == "none":
            return Decided(value=asked, reason="the rule does not balance classes", source=self._rule_source())
        how = "each class is sampled equally often" if asked == "sampler" else "rare classes weigh more in the loss"
        return Decided(value=asked, reason=f"requested; {how}", source=ASKED, deviates=True)

    def _batch(self) -> Decided[int]:
        if self.recipe.preset == "light":
            reason = "light preset: nearly the same result on one small device"
            return self._asked("batch", rule.LIGHT_BATCH, reason, f"{CODE} README", deviates=True)
        return self._asked("batch", rule.BATCH, "the rule's batch size", self._rule_source())

    def _base_lr(self, batch: int) -> Decided[float]:
        light = self.recipe.preset == "light"
        base = rule.LIGHT_BASE_LEARNING_RATE if light else rule.BASE_LEARNING_RATE
        reason = f"the {self.recipe.preset}{' preset' if light else ''}'s learning rate"
        if batch != (reference := self._reference_batch()):
            reason += f" {base} x {batch}/{reference}, in proportion to the batch"
        return self._asked(
            "base_lr", base * batch / reference, reason, self._rule_source(), deviates=light or batch != reference
        )

    def _schedule(self, batch: int) -> Decided[rule.Schedule]:
        full = rule.schedule(self.examples, self.recipe.rule)
        reason = f"{self._regime()} data set: {self.examples} training images"
        if self.recipe.steps is not None:
            asked = f"{self.recipe.steps} steps requested; the rule's boundaries are scaled in proportion"
            return Decided(value=full.stretched(self.recipe.steps), reason=asked, source=ASKED, deviates=True)
        if self.recipe.epochs is not None:
            steps = max(1, math.ceil(self.recipe.epochs * self.examples / batch))
            epochs = f"{self.recipe.epochs:g} epochs of {self.examples} images requested"
            asked = f"{epochs}; the rule's boundaries are scaled in proportion"
            return Decided(value=full.stretched(steps), reason=asked, source=ASKED, deviates=True)
        if self.recipe.budget is not None:
            reason += f"; a measurement before step 0 will shrink it to {duration(self.recipe.budget)}"
        if batch != (reference := self._reference_batch()):
            steps = max(1, round(full.steps * reference / batch))
            reason += f"; {full.steps} steps x {reference}/{batch}, with every boundary scaled in proportion"
            return Decided(value=full.stretched(steps), reason=reason, source=self._rule_source(), deviates=True)
        return Decided(value=full, reason=reason, source=self._rule_source())

    def _train(self) -> Decided[Train]:
        asked, own = self.recipe.train, self.backbone.opaque
        if own is not None and asked.startswith("last-"):
            raise RecipeError(
                f"--train {asked} needs the blocks of a BiT; {self.backbone.name} runs as an opaque graph. "
                "Allowed: full, head."
            )
        if own is not None and not own.trainable and asked != "head":
            raise RecipeError(
                f"{self.backbone.name} cannot be fine-tuned: it has no trainable weights (a TF1 module, signatures "
                "only, saved for inference, or no gradient). Use --train head to train a head on its frozen features."
            )
        if asked == "full":
            return Decided(value=asked, reason="the rule fine-tunes the whole network", source=self._rule_source())
        return Decided(value=asked, reason="requested; the other weights stay frozen", source=ASKED, deviates=True)

    def _head_init(self) -> Decided[HeadInit]:
        if self.recipe.head_init is not None:
            asked = self.recipe.head_init
            return Decided(value=asked, reason="requested", source=ASKED, deviates=asked != "zeros")
        if self.recipe.budget is not None:
            reason = "a shortened schedule under-trains a zero head; a linear probe of the features is a better start"
            return Decided(value="probe", reason=reason, source=HYPERRULE, deviates=True)
        return Decided(value="zeros", reason="the rule starts with a head of zeros", source=self._rule_source())

    def _test_split(self) -> Decided[Split]:
        if "test" in self.dataset.splits:
            return Decided(value="test", reason=self.dataset.splits["test"].origin, source="data set")
        return Decided(value="validation", reason="the data set has no test split", source="data set")

    def _eval_split(self, test_split: Split) -> Decided[Split]:
        if "validation" in self.dataset.splits:
            return Decided(
                value="validation", reason="evaluations during training must not see the test split", source=HYPERRULE
            )
        return Decided(value=test_split, reason="the data set has no validation split", source="data set")

    def evaluated_once(self) -> Decided[int | None]:
        return Decided(
            value=None, reason="the rule has no early stopping: one evaluation, at the end", source=self._rule_source()
        )

    def _faster(self, estimate: Estimate, crop: int, precision: Precision) -> list[str]:
        """Return options that would shorten the run, each with the estimated training time."""
        seconds = estimate.training_seconds
        suggestions = []
        if self.recipe.preset == "rule" and self.recipe.batch is None:
            light = f", about {duration(seconds * rule.LIGHT_BATCH / rule.BATCH)}" if seconds else ""
            suggestions.append(f"--preset light: a quarter of the images{light}")
        own = self.backbone.opaque
        if crop > FAST_CROP and self.recipe.crop is None and (own is None or own.side is None):
            smaller = f", about {duration(seconds * (FAST_CROP / crop) ** 2)}" if seconds else ""
            suggestions.append(f"--crop {FAST_CROP}: fewer pixels, less accurate on fine detail{smaller}")
        if self.recipe.budget is None and (seconds is None or seconds > 300):
            suggestions.append("--budget 5m: the whole schedule, shrunk to the time you have")
        if self.backbone.architecture != "R26x0.5":
            suggestions.append("--backbone bit-r26x0.5: the small embedded backbone")
        if precision == "float32" and self.machine.cpu_bfloat16 and own is None:
            suggestions.append("--precision bfloat16: this CPU multiplies bfloat16 natively")
        if not self.machine.gpus:
            suggestions.append("a GPU: none was found here")
        return suggestions

    def _asked(self, option: str, default: float, reason: str, source: str, deviates: bool = False) -> Decided:  # type: ignore[type-arg]
        """Return the recipe's value if it has one, else `default`."""
        asked = getattr(self.recipe, option)
        if asked is None:
            return Decided(value=default, reason=reason, source=source, deviates=deviates)
        who = "rule" if self.recipe.preset == "rule" else "light preset"
        reason = f"requested; the {who} would set {default:g}"
        return Decided(value=asked, reason=reason, source=ASKED, deviates=deviates or asked != default)

    def _reference_batch(self) -> int:
        return rule.LIGHT_BATCH if self.recipe.preset == "light" else rule.BATCH

    def _regime(self) -> str:
        return rule.regime(self.examples)

    def _rule_source(self) -> str:
        return CODE if self.recipe.rule == "code" else PAPER
