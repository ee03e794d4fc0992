"""The job of `finetune`: a new head on a backbone, trained, evaluated, calibrated and exported to the run folder."""

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import softmax

from hyperrule.backbones.bit.checkpoints import write_arrays
from hyperrule.data.images import Examples
from hyperrule.data.pipeline import training_batches
from hyperrule.data.preprocess import Augmentation
from hyperrule.data.source import Source
from hyperrule.evaluation.calibration import FITTED_ON_AT_MOST, scale_temperature
from hyperrule.evaluation.inference import write_predictions
from hyperrule.evaluation.metrics import Metrics, compute_metrics
from hyperrule.evaluation.probe import fit_head
from hyperrule.exporting.parity import Parity
from hyperrule.jobs.budget import affordable_features
from hyperrule.jobs.job import Job
from hyperrule.jobs.result import Finetuned
from hyperrule.planning.finetune import Plan, training_examples
from hyperrule.reporting.make import finish_run
from hyperrule.reporting.pictures import keep_pictures
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import atomic_write
from hyperrule.support.progress import Report, Reporter
from hyperrule.training.classifier import load_weights, make_classifier
from hyperrule.training.step import TrainingStep

R = TypeVar("R")
PROBE_EXAMPLES = 10_000  # images for the closed-form probe: more take longer and help little


class HeadOnBackbone(Job[Plan, R]):
    """Trains a new head on a backbone, on labelled images. Subclasses define what is kept of it."""

    def __init__(self, plan: Plan, source: Source, run: RunFolder, reporter: Reporter) -> None:
        super().__init__(plan, run, reporter)
        self.source = source

    @cached_property
    def training(self) -> Examples:
        return training_examples(self.plan.recipe, self.source)

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
        most = min(len(examples), FITTED_ON_AT_MOST)
        return examples.take(np.linspace(0, len(examples) - 1, most).round().astype(np.int64))

    @property
    def evaluated_at_the_end(self) -> int:
        return len(self.testing) + (0 if self.calibrating is None else len(self.calibrating))

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
        self.step = TrainingStep(self.classifier, self.strategy, plan.batch.value, xla=plan.xla.value)

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
        """Fit the closed-form probe on the features of at most 10,000 training images."""
        examples = self.training
        most, budget = PROBE_EXAMPLES, self.plan.recipe.budget
        if budget is not None:
            micro_batch = self.plan.micro_batch.value
            most = min(most, affordable_features(budget, micro_batch, examples, self.evaluator.features, self.workers))
        if len(examples) > most:
            chosen = np.random.default_rng(self.plan.seed.value).permutation(len(examples))[:most]
            examples = examples.take(np.sort(chosen))
        with self.reporter.stage("Features", len(examples)) as report:
            features = self.evaluator.features(examples, report)
        kernel, bias = fit_head(features, examples.labels, len(self.plan.class_names))
        with self.strategy.scope():  # the chief's values: another machine may round differently
            self.classifier.head.kernel.assign(self.workers.broadcast(kernel))
            self.classifier.head.bias.assign(self.workers.broadcast(bias))


class Finetuning(HeadOnBackbone[Finetuned]):
    """The training that writes everything: weights, figures, predictions, an export, a report."""

    def conclude(self) -> Finetuned:
        logits = self.evaluate(self.testing)
        validation = None
        if self.calibrating is not None:
            validation = self.outputs(self.calibrating), self.calibrating.labels
        calibration = scale_temperature(logits, self.testing.labels, validation)
        metrics = compute_metrics(logits, self.testing.labels, self.plan.class_names)
        metrics = metrics.model_copy(update={"calibration": calibration})
        parity = (
            self._write(logits / calibration.temperature, metrics, calibration.temperature)
            if self.workers.chief
            else None
        )
        texts = self.workers.texts(parity.model_dump_json() if parity is not None else "")  # the others wait here
        return Finetuned(self.run, self.plan, Parity.model_validate_json(texts[0]), metrics)

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
