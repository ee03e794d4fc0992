"""`make_plan` decides every value of a fine-tuning, with a reason and a source.

Recipe + data facts + backbone facts + machine facts -> Plan, without TensorFlow.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from hyperrule import rule
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.listing import DatasetInfo, Split
from hyperrule.data.selection import few_shot
from hyperrule.data.source import Source
from hyperrule.data.sources.kinds import located
from hyperrule.errors import RecipeError
from hyperrule.planning.budget import LEAST_STEPS, SMALLEST_BATCH, Choice, Demand
from hyperrule.planning.cost import Estimate
from hyperrule.planning.finetune_plan import HeadInit, Optimizer, Plan
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.planner import Planner, absolute, located_backbone
from hyperrule.planning.training_plan import ASKED, HYPERRULE, MEASURED, Decided, Precision
from hyperrule.recipe import AUTO, Balance, Recipe, Train
from hyperrule.support.wording import duration

CODE = "google-research/big_transfer"
PAPER = "arXiv 1912.11370v3, section 3.3 and supplement F"
HELD_OUT, MOST_HELD_OUT = 0.1, 500  # of the training images, where there is no validation split
FAST_CROP = 128  # the rule's crop for small images

# Adam's rate for networks other than BiT at a batch of 32; it grows with the root of the batch (arXiv 2205.10287).
ADAM_RATE, ADAM_BATCH = 0.0003, 32


def training_examples(recipe: Recipe, source: Source) -> Examples:
    """Return the training examples: the whole split, or the recipe's balanced subset of it."""
    examples = source.examples("train")
    if recipe.examples_per_class is None:
        return examples
    return examples.take(few_shot(examples.labels, source.info.class_names, recipe.examples_per_class, recipe.seed))


def make_plan(
    recipe: Recipe,
    source: Source,
    backbone: BackboneInfo,
    machine: Machine,
    workers: int = 1,
    choice: Choice | None = None,
) -> Plan:
    """Decide everything that the recipe leaves open, for `workers` processes with such a machine each.

    `choice` is what a budget is best used for, with this backbone; without it, a budget shrinks the schedule only.

    Raises UserError if the request cannot be met.
    """
    recipe = recipe.model_copy(
        update={
            "dataset": located(recipe.dataset),
            "backbone": recipe.backbone if recipe.backbone == AUTO else located_backbone(recipe.backbone, backbone),
            "data_dir": absolute(recipe.data_dir),
            "exclude": absolute(recipe.exclude),
        }
    )
    examples = len(training_examples(recipe, source))
    if recipe.backbone == AUTO and choice is not None:
        others = f"; {choice.others}" if choice.others else ""
        best = f"chosen by auto among the backbones that are here: {choice.best}{others}"
        backbone = backbone.model_copy(update={"notes": (best, *backbone.notes)})
    return FinetunePlanner(recipe, backbone, machine, workers, source.info, examples, choice).plan()


def demand(recipe: Recipe, source: Source, backbone: BackboneInfo, machine: Machine) -> Demand:
    """Return what a run of the recipe with this backbone has to do, for the choice within its budget."""
    examples = len(training_examples(recipe, source))
    planner = FinetunePlanner(recipe, backbone, machine, 1, source.info, examples)
    splits, test = source.info.splits, planner._test_split().value
    batch = planner._batch().value
    side = None if backbone.opaque is None else backbone.opaque.side
    return Demand(
        training=examples,
        evaluated=sum(splits[split].examples for split in {test, "validation"} & splits.keys()),
        crop=planner._resolution()[1].value,
        images=planner._schedule(batch).value.steps * batch,
        asked_crop=recipe.crop is not None,
        only_size=side,
    )


@dataclass(frozen=True)
class FinetunePlanner(Planner[Recipe]):
    """Decides a fine-tuning; `examples` is the number of training images."""

    dataset: DatasetInfo
    examples: int
    choice: Choice | None = None

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
            optimizer=self._optimizer(),
            base_lr=self._base_lr(batch.value),
            schedule=schedule,
            train=train,
            head_init=self._head_init(),
            test_split=test_split,
            eval_split=self._eval_split(test_split.value),
            held_out=self._held_out(),
            choice=self.choice,
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
        if self._shortened is not None and self.recipe.crop is None:
            smaller = self._shortened.best.size
            reason = f"{self._shortened.basis}; the rule would take {value.crop} px"
            crop = Decided(value=smaller, reason=reason, source=self._chosen_by, deviates=smaller != value.crop)
        if crop.value != value.crop and self.recipe.resize is None:
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
        if self._shortened is not None and self.recipe.batch is None:
            batch = self._shortened.batch
            reason = f"of {SMALLEST_BATCH} to {rule.BATCH}, the largest that leaves {LEAST_STEPS} steps"
            return Decided(value=batch, reason=reason, source=self._chosen_by, deviates=batch != rule.BATCH)
        return self._asked("batch", rule.BATCH, "the rule's batch size", self._rule_source())

    def _optimizer(self) -> Decided[Optimizer]:
        if self.backbone.opaque is None and self._shortened is not None:
            reason = "in little time, Adam gets further from a probe's head than the rule's SGD"
            return Decided(value="Adam", reason=reason, source=HYPERRULE, deviates=True)
        if self.backbone.opaque is None:
            return Decided(value="SGD", reason="the rule's, with momentum 0.9", source=self._rule_source())
        reason = "the rule's rate for SGD fits BiT's features only; Adam's steps do not depend on their scale"
        return Decided(value="Adam", reason=reason, source=HYPERRULE, deviates=True)

    def _base_lr(self, batch: int) -> Decided[float]:
        if self._optimizer().value == "Adam":
            rate = float(f"{ADAM_RATE * math.sqrt(batch / ADAM_BATCH):.2g}")
            reason = f"{ADAM_RATE:g} at batch {ADAM_BATCH}, in proportion to the root of the batch"
            return self._asked("base_lr", rate, reason, HYPERRULE, deviates=True)
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
        if self.choice is not None and self.choice.whole_rule:
            return Decided(value="zeros", reason="the budget suffices for the whole rule", source=self._rule_source())
        if self.recipe.budget is not None:
            reason = "a shortened schedule under-trains a zero head; a linear probe of the features is a better start"
            return Decided(value="probe", reason=reason, source=HYPERRULE, deviates=True)
        return Decided(value="zeros", reason="the rule starts with a head of zeros", source=self._rule_source())

    @property
    def _shortened(self) -> Choice | None:
        """The choice within a budget that does not suffice for the rule itself."""
        return None if self.choice is None or self.choice.whole_rule else self.choice

    @property
    def _chosen_by(self) -> str:
        return MEASURED if self.choice is not None and self.choice.measured else HYPERRULE

    def _held_out(self) -> Decided[int]:
        """Decide how many training images only say whether training has helped."""
        if self._shortened is None:
            return Decided(value=0, reason="the rule trains on all images", source=self._rule_source())
        if "validation" in self.dataset.splits and self._test_split().value != "validation":
            return Decided(value=0, reason="validation images say whether training has helped", source="data set")
        count = min(MOST_HELD_OUT, max(len(self.dataset.class_names), round(HELD_OUT * self.examples)))
        return Decided(
            value=count,
            reason="training images that only say whether training has helped: there is no validation split",
            source=HYPERRULE,
            deviates=True,
        )

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
        if self.recipe.budget is None and (seconds is None or seconds > 300):
            suggestions.append("--budget 5m: the best use of five minutes, of backbone, size and steps")
        if self.recipe.preset == "rule" and self.recipe.batch is None:
            light = f", about {duration(seconds * rule.LIGHT_BATCH / rule.BATCH)}" if seconds else ""
            suggestions.append(f"--preset light: a quarter of the images{light}")
        own = self.backbone.opaque
        if crop > FAST_CROP and self.recipe.crop is None and (own is None or own.side is None):
            smaller = f", about {duration(seconds * (FAST_CROP / crop) ** 2)}" if seconds else ""
            suggestions.append(f"--crop {FAST_CROP}: fewer pixels, less accurate on fine detail{smaller}")
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
