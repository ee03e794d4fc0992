"""The main job: plan -> data -> head -> training -> evaluation -> export, each into the run folder."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from hyperrule.backbones.checkpoints import Arrays, read_arrays, write_arrays
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
from hyperrule.run_folder import RunFolder, check_free
from hyperrule.summary import summary
from hyperrule.training import runtime
from hyperrule.training.checkpoint import latest_checkpoint
from hyperrule.training.classifier import Classifier
from hyperrule.training.loop import train
from hyperrule.training.step import TrainingStep
from hyperrule.training.stop import raising_interrupted

CALIBRATION_MICRO_BATCHES = 3
PROBE_EXAMPLES = 10_000  # the closed form needs no more, and its time grows with each
SAFETY = 1.1  # a shared machine's next minutes are not its last ones


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, its plan, its figures."""

    run: RunFolder
    plan: Plan
    metrics: Metrics
    parity: Parity


def run_plan(plan: Plan, source: Source, out: Path, reporter: Reporter) -> Result:
    """Execute a plan into a new run folder.

    Raises UserError, with nothing written, if the request cannot be met; RunError, with the run
    resumable, if the work cannot be finished.
    """
    check_free(out)
    job = _Job(plan, source, reporter)
    job.check_images()
    job.initialise()
    if plan.recipe.budget is not None:
        job.plan = calibrated(plan, job.calibrate())
        reporter.say(f"Schedule: {job.plan.schedule.reason}.")
    run = RunFolder(out)
    run.create(job.plan)
    with run.locked():
        return job.finish(run, 0)


def resume_run(run: RunFolder, plan: Plan, source: Source, reporter: Reporter) -> Result:
    """Go on with the run in a folder at its newest readable checkpoint, or from the start if it has none."""
    with run.locked():
        job = _Job(plan, source, reporter)
        first, arrays = latest_checkpoint(run.checkpoints) or (0, None)
        if arrays is None:
            job.initialise()
        else:
            job.step.restore(arrays)
        reporter.say(f"Resuming {run.path} at step {first} of {plan.schedule.value.steps}.")
        run.rewind_metrics(first)
        return job.finish(run, first)


class _Job:
    """One fine-tuning in memory: the plan, its data, and the network under training."""

    def __init__(self, plan: Plan, source: Source, reporter: Reporter) -> None:
        self.plan = plan
        self.source = source
        self.reporter = reporter
        self.started = time.monotonic()
        self.backbone_arrays: Arrays | None = (
            None if plan.backbone.path is None else read_arrays(Path(plan.backbone.path))
        )
        self.strategy = runtime.start(plan.machine)
        keras.utils.set_random_seed(plan.seed.value)  # random backbones; everything else is stateless
        with self.strategy.scope():
            self.classifier = Classifier(plan.backbone.network, plan.classes, plan.precision.value)
            self.step = TrainingStep(self.classifier, self.strategy, plan.batch.value)

    @cached_property
    def training(self) -> Examples:
        return training_examples(self.plan.recipe, self.source)

    @cached_property
    def testing(self) -> Examples:
        return self.source.examples(self.plan.test_split.value)

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.classifier, self.plan.crop.value, self.plan.micro_batch.value)

    @property
    def micro_batch(self) -> int:
        """Examples in flight over all devices."""
        return self.plan.micro_batch.value * int(self.strategy.num_replicas_in_sync)

    def check_images(self) -> None:
        """Decode every image that will be used, once, so that no bad file stops the run later."""
        if bad := undecodable(self.training) + undecodable(self.testing):
            named = ", ".join(bad[:5]) + (" and more" if len(bad) > 5 else "")
            raise DataError(
                f"{len(bad)} of the images cannot be decoded: {named}. "
                "Repair or remove them, or leave them out with --skip-corrupt."
            )

    def initialise(self) -> None:
        """Backbone weights, and the head as the plan wants it."""
        with self.strategy.scope():
            if self.backbone_arrays is not None:
                self.classifier.load(self.backbone_arrays, with_head=False)
            if self.plan.head_init.value == "probe":
                self._initialise_head()

    def calibrate(self) -> Calibration:
        """Time a step and the evaluation on this device, and leave everything as it was."""
        before = self.step.snapshot()
        batches = self._training_batches(0)
        self.step.run([next(batches)], 0.0)  # compiles
        start = time.perf_counter()
        self.step.begin()
        for _ in range(CALIBRATION_MICRO_BATCHES):
            self.step.accumulate(next(batches))
        micro_seconds = (time.perf_counter() - start) / CALIBRATION_MICRO_BATCHES
        start = time.perf_counter()
        self.step.update(0.0)
        update_seconds = time.perf_counter() - start
        evaluation = self._evaluation_seconds()
        self.step.restore(before)
        return Calibration(
            elapsed=round(time.monotonic() - self.started, 2),
            step=round(SAFETY * (micro_seconds * self._micro_batches_per_step + update_seconds), 4),
            evaluation=round(SAFETY * evaluation, 2),
        )

    def finish(self, run: RunFolder, first: int) -> Result:
        """Train from step `first`, evaluate, export, compare, and sum up."""
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
        """Everything after the last step; done again from the weights if it is interrupted."""
        with whole_file(run.weights_file) as partial:
            write_arrays(partial, self.classifier.snapshot())
        probabilities = self._evaluate(self.testing)
        metrics = compute_metrics(probabilities, self.testing.labels, self.plan.dataset.class_names)
        run.write(run.eval_file, metrics.model_dump_json(indent=2) + "\n")
        write_predictions(run.predictions_file, self.testing, probabilities, self.plan.dataset.class_names)
        parity = self._export(run, probabilities)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        run.write(run.summary_file, summary(self.plan, metrics, parity, run))
        return Result(run, self.plan, metrics, parity)

    @property
    def _micro_batches_per_step(self) -> int:
        return -(-self.plan.batch.value // self.micro_batch)

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
            self.micro_batch,
            range(first, plan.schedule.value.steps),
            plan.seed.value,
        )
        return iter(self.strategy.experimental_distribute_dataset(dataset))

    def _initialise_head(self) -> None:
        """Fit the closed-form probe on the features of at most 10,000 training images."""
        examples = self.training
        if len(examples) > PROBE_EXAMPLES:
            chosen = np.random.default_rng(self.plan.seed.value).permutation(len(examples))[:PROBE_EXAMPLES]
            examples = examples.take(np.sort(chosen))
        with self.reporter.stage("Features", len(examples)) as report:
            features = self.evaluator.features(examples, report)
        kernel, bias = fit_head(features, examples.labels, self.plan.classes)
        self.classifier.head.kernel.assign(kernel)
        self.classifier.head.bias.assign(bias)

    def _evaluation_seconds(self) -> float:
        """Time of the final evaluation, from one micro-batch (which compiles) and three."""
        micro_batch = self.plan.micro_batch.value
        seconds = []
        for micro_batches in (1, 3):
            sample = self.testing.take(np.arange(min(len(self.testing), micro_batches * micro_batch)))
            start = time.perf_counter()
            self.evaluator.probabilities(sample)
            seconds.append((time.perf_counter() - start) / len(sample))
        return seconds[-1] * len(self.testing)

    def _evaluate_on_the_way(self) -> dict[str, float]:
        examples = self.source.examples(self.plan.eval_split.value)
        metrics = compute_metrics(self._evaluate(examples), examples.labels, self.plan.dataset.class_names)
        self.reporter.say(f"Accuracy on {self.plan.eval_split.value}: {metrics.top1:.2%}")
        return {"top1": metrics.top1, "top5": metrics.top5, "loss": metrics.loss}

    def _evaluate(self, examples: Examples) -> npt.NDArray[np.float32]:
        with self.reporter.stage("Evaluation", len(examples)) as report:
            return self.evaluator.probabilities(examples, report)

    def _export(self, run: RunFolder, probabilities: npt.NDArray[np.float32]) -> Parity:
        """Export, and keep the export only if it says what the evaluation said."""
        self.reporter.say("Exporting, and comparing with the evaluation in a fresh process ...")
        shutil.rmtree(run.export, ignore_errors=True)
        class_names = self.plan.dataset.class_names
        try:
            with os_errors_as(RunError, f"cannot write {run.saved_model}"):
                export_saved_model(self.evaluator.refresh(), class_names, self.plan.crop.value, run.saved_model)
            tolerance = GPU_TOLERANCE if self.plan.machine.gpus else TOLERANCE
            parity = check_parity(run.saved_model, self.testing, probabilities, class_names, tolerance)
        except BaseException:
            shutil.rmtree(run.export, ignore_errors=True)
            raise
        run.write(run.parity_file, parity.model_dump_json(indent=2) + "\n")
        return parity
