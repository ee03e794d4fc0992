"""The job of `finetune`: a new head on a backbone, trained, evaluated, calibrated and exported to the run folder."""

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import log_softmax, softmax

from hyperrule.backbones.bit.checkpoints import read_arrays, write_arrays
from hyperrule.data.images import Examples, Indices
from hyperrule.data.pipeline import training_batches
from hyperrule.data.preprocess import Augmentation
from hyperrule.data.selection import evenly_spread
from hyperrule.data.source import Source
from hyperrule.evaluation.calibration import FITTED_ON_AT_MOST, scale_temperature
from hyperrule.evaluation.inference import failures_explained, write_predictions
from hyperrule.evaluation.metrics import Kept, Metrics, compute_metrics
from hyperrule.evaluation.probe import fit_head
from hyperrule.exporting.parity import Parity
from hyperrule.jobs.budget import affordable_features, estimated_calibration
from hyperrule.jobs.job import Job
from hyperrule.jobs.result import Finetuned
from hyperrule.planning.budget import Clock
from hyperrule.planning.finetune import MOST_HELD_OUT, training_examples
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.training_plan import Calibration
from hyperrule.reporting.make import finish_run
from hyperrule.reporting.pictures import keep_pictures
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import atomic_write
from hyperrule.support.progress import Report, Reporter
from hyperrule.training.classifier import load_weights, make_classifier
from hyperrule.training.optimizer import adamw
from hyperrule.training.step import TrainingStep

R = TypeVar("R")
PROBE_EXAMPLES = 10_000  # images for the closed-form probe: more take longer and help little


class HeadOnBackbone(Job[Plan, R]):
    """Trains a new head on a backbone, on labelled images. Subclasses define what is kept of it."""

    def __init__(
        self, plan: Plan, source: Source, run: RunFolder, reporter: Reporter, clock: Clock | None = None
    ) -> None:
        super().__init__(plan, run, reporter, clock)
        self.source = source
        self.probed: tuple[npt.NDArray[np.float32], Examples] | None = None  # what the head was fitted on

    @cached_property
    def labelled(self) -> Examples:
        """The training images of the recipe, those that are held out included."""
        return training_examples(self.plan.recipe, self.source)

    @cached_property
    def training(self) -> Examples:
        return self.labelled.take(np.setdiff1d(np.arange(len(self.labelled)), self._held_out))

    @cached_property
    def judging(self) -> Examples:
        """Images that say whether training has helped: held-out training images, or validation images."""
        if len(self._held_out):
            return self.labelled.take(self._held_out)
        examples = self.source.examples("validation")
        return examples.take(evenly_spread(len(examples), MOST_HELD_OUT))

    @cached_property
    def _held_out(self) -> Indices:
        count = self.plan.held_out.value
        return np.sort(np.random.default_rng(self.plan.seed.value).permutation(len(self.labelled))[:count])

    @cached_property
    def testing(self) -> Examples:
        return self.source.examples(self.plan.test_split.value)

    @cached_property
    def calibrating(self) -> Examples | None:
        """Validation images on which the temperature is fitted; None if there are none besides the test images."""
        splits = self.plan.dataset.splits
        if "validation" not in splits or self.plan.test_split.value == "validation":
            return None
        examples = self.source.examples("validation")
        return examples.take(evenly_spread(len(examples), FITTED_ON_AT_MOST))

    @property
    def evaluated_at_the_end(self) -> int:
        judging = len(self.judging) if self.plan.judged else 0
        return len(self.testing) + (0 if self.calibrating is None else len(self.calibrating)) + judging

    @cached_property
    def used(self) -> list[Examples]:
        used = [self.training, self.testing]
        if self.plan.eval_every.value is not None and self.plan.eval_split.value != self.plan.test_split.value:
            used.append(self.source.examples(self.plan.eval_split.value))
        elif self.calibrating is not None:
            used.append(self.calibrating)
        return used

    def build(self) -> None:
        plan = self.plan
        self.classifier = make_classifier(
            plan.backbone, len(plan.class_names), plan.precision.value, remat=plan.remat.value
        )
        self.classifier.backbone.train_part(plan.train.value)
        optimizer = adamw(0.0, []) if plan.optimizer.value == "Adam" else None
        self.step = TrainingStep(self.classifier, self.strategy, plan.batch.value, optimizer, xla=plan.xla.value)

    def initialise(self) -> None:
        """Load the backbone's weights, and initialise the head as the plan says."""
        with self.strategy.scope():
            load_weights(self.classifier, self.plan.backbone)
        if self.plan.head_init.value == "probe":
            self._initialise_head()

    def batches(self, micro_batch: int, steps: range) -> tf.data.Dataset:
        plan = self.plan
        return training_batches(
            self.training,
            len(plan.class_names),
            Augmentation(
                plan.resize.value, plan.crop.value, plan.random_crop.value, plan.random_flip.value, plan.mixup.value
            ),
            plan.batch.value,
            micro_batch,
            steps,
            plan.seed.value,
            plan.balance.value,
            self.workers.shard,
        )

    def outputs(self, examples: Examples, report: Report | None = None) -> npt.NDArray[np.float32]:
        """Return logits, float32 [N, classes]."""
        return self.evaluator.logits(examples, report)

    def evaluate_on_the_way(self, check: Callable[[], None]) -> dict[str, float]:
        examples = self.source.examples(self.plan.eval_split.value)
        logits = self.evaluate(examples, check)
        metrics = compute_metrics(logits, examples.labels, self.plan.class_names)
        self.reporter.say(f"Accuracy on {self.plan.eval_split.value}: {metrics.top1:.2%}")
        return {"top1": metrics.top1, "top5": metrics.top5, "loss": metrics.loss}

    def _initialise_head(self) -> None:
        """Fit the closed-form probe on the features of at most 10,000 training images; a budget may allow fewer."""
        examples = self.training
        most = PROBE_EXAMPLES
        with failures_explained(examples, self.plan.evaluation_size.value):
            if self.plan.recipe.budget is not None:
                micro_batch, extract = self.plan.micro_batch.value, self.evaluator.features
                most = min(most, affordable_features(self.clock, micro_batch, examples, extract, self.workers))
            if len(examples) > most:
                chosen = np.random.default_rng(self.plan.seed.value).permutation(len(examples))[:most]
                examples = examples.take(np.sort(chosen))
            with self.reporter.stage("Features", len(examples)) as report:
                features = self.evaluator.features(examples, report)
        self.probed = features, examples
        self._fit_head(features, examples.labels)

    def _fit_head(self, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> None:
        kernel, bias = fit_head(features, labels, len(self.plan.class_names))
        with self.strategy.scope():  # the chief's values: another machine may round differently
            self.classifier.head.kernel.assign(self.workers.broadcast(kernel))
            self.classifier.head.bias.assign(self.workers.broadcast(bias))


class Finetuning(HeadOnBackbone[Finetuned]):
    """The training that writes everything: weights, figures, predictions, an export, a report."""

    def check_images(self) -> None:
        """Decode every image, unless a budget is too short for that: then features of most are extracted anyway."""
        if self.plan.choice is None or self.plan.choice.whole_rule:
            super().check_images()

    def initialise(self) -> None:
        super().initialise()
        if self.plan.judged:
            self.start = _judged(self.outputs(self.judging), self.judging.labels)

    def calibration(self) -> Calibration:
        known = None
        if self.plan.judged:
            known = estimated_calibration(self.plan, self.evaluated_at_the_end, self.clock)
        return known or super().calibration()

    def keep_start(self) -> None:
        super().keep_start()
        if self.plan.judged:
            write_arrays(self.run.start_file, self.classifier.snapshot())
            self.run.append_metrics({"kind": "judged", "step": 0, **self.start})

    def conclude(self) -> Finetuned:
        kept = self._keep_the_better() if self.run.start_file.exists() else None
        logits = self.evaluate(self.testing)
        validation = None
        if self.calibrating is not None:
            validation = self.outputs(self.calibrating), self.calibrating.labels
        calibration = scale_temperature(logits, self.testing.labels, validation)
        metrics = compute_metrics(logits, self.testing.labels, self.plan.class_names)
        metrics = metrics.model_copy(update={"calibration": calibration, "kept": kept})
        parity = (
            self._write(logits / calibration.temperature, metrics, calibration.temperature)
            if self.workers.chief
            else None
        )
        texts = self.workers.texts(parity.model_dump_json() if parity is not None else "")  # the others wait here
        return Finetuned(self.run, self.plan, Parity.model_validate_json(texts[0]), metrics)

    def _keep_the_better(self) -> Kept | None:
        """Go back to the start if training has not helped; None if there was no training.

        A head that goes back is fitted anew, with the images that were held out.
        """
        start = next((line for line in self.run.read_metrics() if line["kind"] == "judged"), None)
        kept = None
        if self.plan.steps > 0 and start is not None:
            end = _judged(self.outputs(self.judging), self.judging.labels)
            kept = Kept(
                kept="end" if end["loss"] < start["loss"] else "start",
                judged_on="held-out training images" if self.plan.held_out.value else "validation images",
                examples=len(self.judging),
                start_loss=start["loss"],
                end_loss=end["loss"],
                start_top1=start["top1"],
                end_top1=end["top1"],
            )
            self.reporter.say(f"{str(kept).capitalize()}.")
        if kept is None or kept.kept == "start":
            with self.strategy.scope():
                self.classifier.load(read_arrays(self.run.start_file))
            if self.plan.held_out.value and self.probed is not None:
                features, examples = self.probed
                held_out = self.evaluator.features(self.judging)
                self._fit_head(np.concatenate([features, held_out]), np.append(examples.labels, self.judging.labels))
        return kept

    def _write(self, logits: npt.NDArray[np.float32], metrics: Metrics, temperature: float) -> Parity:
        """Write the run's results; `logits` float32 [N, classes] are already divided by `temperature`."""
        run = self.run
        with atomic_write(run.weights_file) as partial:
            write_arrays(partial, self.classifier.snapshot())
        probabilities = softmax(logits, axis=1)
        run.write(run.eval_file, metrics.model_dump_json(indent=2) + "\n")
        write_predictions(run.predictions_file, self.testing, probabilities, self.plan.class_names)
        parity = self.export(self.testing, probabilities, temperature)
        finish_run(run, self.reporter, lambda: keep_pictures(run, self.source, self.testing, probabilities))
        return parity


def _judged(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> dict[str, float]:
    """Return the mean cross-entropy, in nats, and the accuracy."""
    logs = log_softmax(logits.astype(np.float64), axis=1)
    return {
        "loss": float(-logs[np.arange(len(labels)), labels].mean()),
        "top1": float(np.mean(logits.argmax(axis=1) == labels)),
    }
