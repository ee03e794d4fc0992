"""The main job: plan -> data -> head -> training -> evaluation -> export, each into the run folder."""

import itertools
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import softmax

from hyperrule.backbones.checkpoints import StoredArrays, write_arrays
from hyperrule.data import Examples, Source
from hyperrule.data.pipeline import Augmentation, MicroBatch, training_batches, undecodable
from hyperrule.errors import DataError, RunError
from hyperrule.evaluation.evaluate import Evaluator
from hyperrule.evaluation.metrics import Metrics, compute_metrics
from hyperrule.evaluation.predictions import write_predictions
from hyperrule.evaluation.probe import fit_head
from hyperrule.export.parity import GPU_TOLERANCE, TOLERANCE, Parity, check_parity
from hyperrule.export.saved_model import export_saved_model
from hyperrule.files import os_errors_as, whole_file
from hyperrule.planning.plan import Calibration, Plan
from hyperrule.planning.planner import calibrated, training_examples
from hyperrule.progress import Reporter
from hyperrule.run_folder import RunFolder, free_run_folder
from hyperrule.summary import summary
from hyperrule.training import runtime
from hyperrule.training.checkpoint import latest_checkpoint, save_checkpoint
from hyperrule.training.classifier import make_classifier
from hyperrule.training.loop import train
from hyperrule.training.step import TrainingStep
from hyperrule.training.stop import raising_interrupted
from hyperrule.wording import listed, resume_command

CALIBRATION_SECONDS = 5.0
PROBE_SHARE = 0.25  # of a budget
PROBE_EXAMPLES = 10_000  # the closed form needs no more, and its time grows with each
SAFETY = 1.1  # a shared machine's next minutes are not its last ones


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, its plan, its figures."""

    run: RunFolder
    plan: Plan
    metrics: Metrics
    parity: Parity


def run_plan(plan: Plan, source: Source, out: Path | None, reporter: Reporter) -> Result:
    """Execute a plan into a new run folder, under runs/ if none is given.

    Raises UserError, with nothing written, if the request cannot be met; RunError, with the run
    resumable, if the work cannot be finished.
    """
    job = _Job(plan, source, reporter)
    job.check_images()
    for warning in plan.dataset.warnings:
        reporter.say(f"Warning: {warning}.")
    job.initialise()
    if plan.recipe.budget is not None:
        job.plan = calibrated(plan, job.calibrate())
        reporter.say(f"Schedule: {job.plan.schedule.reason}.")
    run = RunFolder(out or free_run_folder(plan.dataset.name))
    run.create(job.plan)
    with run.locked():
        if plan.head_init.value == "probe":  # how many images a budget pays for is measured, and only once
            save_checkpoint(run.checkpoints, 0, job.step.snapshot())
        return job.finish(run, 0)


def resume_run(run: RunFolder, plan: Plan, source: Source, reporter: Reporter) -> Result:
    """Go on with the run in a folder at its newest readable checkpoint, or from the start if it has none.

    `plan` has no differences to the stored one, but may say anew where files lie and how to cut up a batch.
    """
    with run.locked():
        job = _Job(plan, source, reporter)
        first, arrays = latest_checkpoint(run.checkpoints, reporter.say) or (0, None)
        if arrays is None:
            job.initialise()
        else:
            job.step.restore(arrays)
        reporter.say(f"Resuming {run.path} at step {first} of {plan.schedule.value.steps}.")
        run.write(run.plan_file, plan.model_dump_json(indent=2) + "\n")
        run.rewind_metrics(first)
        return job.finish(run, first)


class _Job:
    """One fine-tuning in memory: the plan, its data, and the network under training."""

    def __init__(self, plan: Plan, source: Source, reporter: Reporter) -> None:
        self.plan = plan
        self.source = source
        self.reporter = reporter
        self.started = time.monotonic()
        own = plan.backbone.as_it_is
        self.strategy = runtime.start(plan.machine, deterministic=own is None or not own.draws_random_numbers)
        keras.utils.set_random_seed(plan.seed.value)  # random backbones; everything else is stateless
        with self.strategy.scope():
            self.classifier = make_classifier(plan.backbone, plan.classes, plan.precision.value)
            self.classifier.backbone.train_part(plan.train.value)
            self.step = TrainingStep(self.classifier, self.strategy, plan.batch.value)

    @cached_property
    def training(self) -> Examples:
        return training_examples(self.plan.recipe, self.source)

    @cached_property
    def testing(self) -> Examples:
        return self.source.examples(self.plan.test_split.value)

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.classifier, self.plan.evaluation_size.value, self.plan.micro_batch.value)

    @property
    def global_micro_batch(self) -> int:
        """Examples in flight over all devices."""
        return self.plan.micro_batch.value * int(self.strategy.num_replicas_in_sync)

    def check_images(self) -> None:
        """Decode every image that will be used, once, so that no bad file stops the run later."""
        used = [self.training, self.testing]
        if self.plan.eval_every.value is not None and self.plan.eval_split.value != self.plan.test_split.value:
            used.append(self.source.examples(self.plan.eval_split.value))
        bad = []
        with self.reporter.stage("Checking", sum(map(len, used))) as report:
            for index, examples in enumerate(used):
                bad += undecodable(examples)
                report(sum(map(len, used[: index + 1])), "images decoded")
        if bad:
            advice = "Repair or remove them"
            if not self.plan.recipe.skip_corrupt:
                advice += ", or leave them out with --skip-corrupt"
            raise DataError(f"{len(bad)} of the images cannot be decoded: {listed(bad)}. {advice}.")

    def initialise(self) -> None:
        """Backbone weights, and the head as the plan wants it."""
        if self.plan.backbone.network is not None and self.plan.backbone.path is not None:
            with self.strategy.scope(), StoredArrays(Path(self.plan.backbone.path)) as arrays:
                self.classifier.load(arrays, with_head=False)
        if self.plan.head_init.value == "probe":
            self._initialise_head()

    def calibrate(self) -> Calibration:
        """Time a step and the evaluation on this device, and leave everything as it was."""
        before = self.step.snapshot()
        batches = self._training_batches(0)
        self.step.run([next(batches)], 0.0)  # compiles
        empty = self._seconds_of_step([])
        micro_batches = 0
        seconds = 0.0
        while micro_batches < 3 or (seconds < CALIBRATION_SECONDS and micro_batches < 64):
            # The first share of a pipeline's output was made while the step compiled: only the last counts.
            share = max(1, micro_batches)
            latest = self._seconds_of_step(itertools.islice(batches, share)) - empty
            micro_batches += share
            seconds += latest
            micro_seconds = latest / share
        evaluation = self._evaluation_seconds()
        self.step.restore(before)
        return Calibration(
            elapsed=round(time.monotonic() - self.started, 2),
            step=round(SAFETY * (max(micro_seconds, 1e-4) * self._micro_batches_per_step + empty), 4),
            evaluation=round(SAFETY * evaluation, 2),
        )

    def _seconds_of_step(self, micro_batches: Iterable[MicroBatch]) -> float:
        """Time of a step at rate 0; reading its loss waits for the device."""
        start = time.perf_counter()
        self.step.run(micro_batches, 0.0)
        return time.perf_counter() - start

    def finish(self, run: RunFolder, first: int) -> Result:
        """Train from step `first`, evaluate, export, compare, and sum up."""
        try:
            return self._finish(run, first)
        except tf.errors.OpError as error:
            reason = str(error.message).strip().splitlines()[0]
            smaller = f" --micro-batch {max(1, self.plan.micro_batch.value // 2)}"
            may_shrink = isinstance(error, tf.errors.ResourceExhaustedError) and "micro_batch" in self.plan.how
            hint = smaller if may_shrink else ""
            raise RunError(f"TensorFlow failed: {reason}. Continue with: {resume_command(run.path)}{hint}") from error

    def _finish(self, run: RunFolder, first: int) -> Result:
        if first < self.plan.schedule.value.steps:
            train(
                self.step,
                self.plan,
                run,
                self._training_batches(first),
                self._micro_batches_per_step,
                first,
                self._evaluate_on_the_way,
                self.reporter,
            )
        with raising_interrupted(run, "after training"):
            return self._conclude(run)

    def _conclude(self, run: RunFolder) -> Result:
        """Everything after the last step; done again from the last checkpoint if it is interrupted."""
        with whole_file(run.weights_file) as partial:
            write_arrays(partial, self.classifier.snapshot())
        logits = self._evaluate(self.testing)
        probabilities = softmax(logits, axis=1)
        metrics = compute_metrics(logits, self.testing.labels, self.plan.dataset.class_names)
        run.write(run.eval_file, metrics.model_dump_json(indent=2) + "\n")
        write_predictions(run.predictions_file, self.testing, probabilities, self.plan.dataset.class_names)
        parity = self._export(run, probabilities)
        run.write(run.summary_file, summary(self.plan, metrics, parity, run))
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # only now: until the summary is there, they are the run
        return Result(run, self.plan, metrics, parity)

    @property
    def _micro_batches_per_step(self) -> int:
        return -(-self.plan.batch.value // self.global_micro_batch)

    def _training_batches(self, first: int) -> Iterator[MicroBatch]:
        """Micro-batches from step `first` on, split over the devices."""
        plan = self.plan
        dataset = training_batches(
            self.training,
            plan.classes,
            Augmentation(
                plan.resize.value, plan.crop.value, plan.random_crop.value, plan.random_flip.value, plan.mixup.value
            ),
            plan.batch.value,
            self.global_micro_batch,
            range(first, plan.schedule.value.steps),
            plan.seed.value,
            plan.balance.value,
        )
        return iter(self.strategy.experimental_distribute_dataset(dataset))

    def _initialise_head(self) -> None:
        """Fit the closed-form probe on the features of at most 10,000 training images."""
        examples = self.training
        most = min(PROBE_EXAMPLES, self._affordable_features())
        if len(examples) > most:
            chosen = np.random.default_rng(self.plan.seed.value).permutation(len(examples))[:most]
            examples = examples.take(np.sort(chosen))
        with self.reporter.stage("Features", len(examples)) as report:
            features = self.evaluator.features(examples, report)
        kernel, bias = fit_head(features, examples.labels, self.plan.classes)
        self.classifier.head.kernel.assign(kernel)
        self.classifier.head.bias.assign(bias)

    def _affordable_features(self) -> int:
        """Training images whose features a quarter of the budget pays for; at least two micro-batches."""
        if self.plan.recipe.budget is None:
            return len(self.training)
        micro_batch = self.plan.micro_batch.value
        sample = self.training.take(np.arange(min(len(self.training), micro_batch)))
        self.evaluator.features(sample)  # compiles
        start = time.perf_counter()
        self.evaluator.features(sample)
        rate = len(sample) / (time.perf_counter() - start)
        return max(2 * micro_batch, int(PROBE_SHARE * self.plan.recipe.budget * rate))

    def _evaluation_seconds(self) -> float:
        """Time of the final evaluation, from one micro-batch (which compiles) and three."""
        micro_batch = self.plan.micro_batch.value
        seconds = []
        for micro_batches in (1, 3):
            sample = self.testing.take(np.arange(min(len(self.testing), micro_batches * micro_batch)))
            start = time.perf_counter()
            self.evaluator.logits(sample)
            seconds.append((time.perf_counter() - start) / len(sample))
        return seconds[-1] * len(self.testing)

    def _evaluate_on_the_way(self) -> dict[str, float]:
        examples = self.source.examples(self.plan.eval_split.value)
        metrics = compute_metrics(self._evaluate(examples), examples.labels, self.plan.dataset.class_names)
        self.reporter.say(f"Accuracy on {self.plan.eval_split.value}: {metrics.top1:.2%}")
        return {"top1": metrics.top1, "top5": metrics.top5, "loss": metrics.loss}

    def _evaluate(self, examples: Examples) -> npt.NDArray[np.float32]:
        with self.reporter.stage("Evaluation", len(examples)) as report:
            return self.evaluator.logits(examples, report)

    def _export(self, run: RunFolder, probabilities: npt.NDArray[np.float32]) -> Parity:
        """Export, and keep the export only if it says what the evaluation said."""
        self.reporter.say("Exporting, and comparing with the evaluation in a fresh process ...")
        shutil.rmtree(run.export, ignore_errors=True)
        class_names = self.plan.dataset.class_names
        try:
            with os_errors_as(RunError, f"cannot write {run.saved_model}"):
                export_saved_model(
                    self.evaluator.refresh(), class_names, self.plan.evaluation_size.value, run.saved_model
                )
            tolerance = GPU_TOLERANCE if self.plan.machine.gpus else TOLERANCE
            parity = check_parity(run.saved_model, self.testing, probabilities, class_names, tolerance)
        except BaseException:
            shutil.rmtree(run.export, ignore_errors=True)
            raise
        run.write(run.parity_file, parity.model_dump_json(indent=2) + "\n")
        return parity
