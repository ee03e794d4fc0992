"""`Job`: what every training does: start devices and workers, create or resume its run folder, train, conclude."""

import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.images import Examples
from hyperrule.data.pipeline import MicroBatch, undecodable
from hyperrule.errors import DataError, RunError
from hyperrule.evaluation.inference import Evaluator
from hyperrule.exporting.parity import Parity, add_parity
from hyperrule.exporting.replay import check_parity
from hyperrule.exporting.saved_model import export_saved_model
from hyperrule.jobs.budget import calibrate
from hyperrule.planning.budget import Clock
from hyperrule.planning.machine.cluster import this_cluster
from hyperrule.planning.training_plan import Calibration, TrainingPlan
from hyperrule.prediction.formats import AFTER_GPU, FLOAT32, Card
from hyperrule.run_folder import RunFolder, latest_checkpoint, save_checkpoint
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Report, Reporter
from hyperrule.support.wording import first_line, listed
from hyperrule.training import runtime
from hyperrule.training.classifier import Classifier, fold
from hyperrule.training.loop import Feed, Loop
from hyperrule.training.step import TrainingStep
from hyperrule.training.stop import raising_interrupted
from hyperrule.training.workers import LOST, Workers, agreed

P = TypeVar("P", bound=TrainingPlan)
R = TypeVar("R")


class Job(ABC, Generic[P, R]):
    """One training in memory: its plan and the network in training. Subclasses define what is learned."""

    strategy: tf.distribute.Strategy
    workers: Workers
    classifier: Classifier
    step: TrainingStep

    def __init__(self, plan: P, run: RunFolder, reporter: Reporter, clock: Clock | None = None) -> None:
        self.plan = plan
        self.run = run
        self.reporter = reporter
        self.cluster = this_cluster()
        self.clock = clock or Clock(time.monotonic(), plan.recipe.budget or math.inf)

    @abstractmethod
    def build(self) -> None:
        """Create `classifier` and `step`; called in the strategy's scope."""

    @abstractmethod
    def initialise(self) -> None:
        """Set the network's weights of step 0."""

    @property
    @abstractmethod
    def used(self) -> list[Examples]:
        """All images that this run uses."""

    @property
    @abstractmethod
    def testing(self) -> Examples:
        """The images on which the result is evaluated."""

    @property
    def evaluated_at_the_end(self) -> int:
        """Number of images that go through the network after the last step."""
        return len(self.testing)

    @abstractmethod
    def batches(self, micro_batch: int, steps: range) -> tf.data.Dataset:
        """Return this worker's part of the micro-batches of `steps`, in order."""

    @abstractmethod
    def evaluate_on_the_way(self, check: Callable[[], None]) -> dict[str, float]:
        """Evaluate during training, and return figures for the log; calls `check` regularly, which may raise."""

    @abstractmethod
    def conclude(self) -> R:
        """Do everything after the last step; repeated from the last checkpoint if interrupted."""

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.classifier, self.plan.evaluation_size.value, self.plan.micro_batch.value, self.workers)

    @abstractmethod
    def outputs(self, examples: Examples, report: Report | None = None) -> npt.NDArray[np.float32]:
        """Return the network's outputs that an evaluation needs: one row for each example, in their order."""

    def evaluate(self, examples: Examples, check: Callable[[], None] = lambda: None) -> npt.NDArray[np.float32]:
        """Return `outputs`, with progress shown; calls `check` at every report, which may raise."""
        with self.reporter.stage("Evaluation", len(examples)) as report:

            def report_and_check(done: int, detail: str) -> None:
                report(done, detail)
                check()

            return self.outputs(examples, report_and_check)

    def execute(self, resuming: bool, calibration: Calibration | None = None) -> R:
        """Run the whole job and return its result. Only the chief needs to know whether it is `resuming`."""
        with self._failures_as_run_errors():
            self._start()
            if self.workers.broadcast(resuming):
                return self._resume(calibration)
            return self._begin()

    def _start(self) -> None:
        """Start devices, connect to the other workers, and build the network on all of them."""
        plan = self.plan
        if self.cluster.count > 1:
            self.reporter.say(f"Waiting for all {self.cluster.count} workers ...")
        self.strategy = runtime.start(
            plan.machine,
            self.cluster,
            deterministic=plan.deterministic,
            memory_limit=plan.recipe.memory_limit,
            tpu=plan.recipe.devices == "tpu",
        )
        self.workers = Workers(self.strategy, self.cluster)
        chiefs = Path(self.workers.texts(str(self.run.path))[0])
        if chiefs != self.run.path:  # only the chief knows which folder it has found free
            self.run = RunFolder(chiefs)
        self.plan = agreed(plan, self.workers)
        keras.utils.set_random_seed(plan.seed.value)  # random backbones; everything else is stateless
        with self.strategy.scope():
            self.build()

    def _begin(self) -> R:
        self.check_images()
        for warning in self.plan.warnings:
            self.reporter.say(f"Warning: {warning}.")
        self.initialise()
        if self.plan.recipe.budget is not None:
            self.plan = self.plan.calibrated(self.calibration())
            self.reporter.say(f"Schedule: {self.plan.length.reason}.")
        with self.workers.together():
            if self.workers.chief:
                self.run.create(self.plan)
        with self._holding_the_run():
            if self.workers.chief and self.plan.starts_from_measurements:
                self.keep_start()
            return self._finish(0)

    def calibration(self) -> Calibration:
        """Measure how long steps and evaluation take."""
        return calibrate(self)

    def keep_start(self) -> None:
        """Write what step 0 depends on, as it is measured only once."""
        save_checkpoint(self.run.checkpoints, 0, self.step.snapshot(), self.run.resume)

    def _resume(self, calibration: Calibration | None) -> R:
        of_chief = self.workers.texts(calibration.model_dump_json() if calibration is not None else "")[0]
        if of_chief:
            self.plan = self.plan.calibrated(Calibration.model_validate_json(of_chief))
        with self._holding_the_run():
            first = self._restore()
            self.reporter.say(f"Resuming {self.run.path} at step {first} of {self.plan.steps}.")
            if self.workers.chief:
                self.run.write(self.run.plan_file, self.plan.model_dump_json(indent=2) + "\n")
                self.run.rewind_metrics(first)
            return self._finish(first)

    @contextmanager
    def _failures_as_run_errors(self) -> Iterator[None]:
        """Turn TensorFlow's errors within the block into a RunError that says how to continue."""
        try:
            yield
        except tf.errors.OpError as error:
            reason = first_line(error)
            begun = self.run.plan_file.exists()
            again = f"Continue with: {self.run.resume}" if begun else "Start again."
            if self.cluster.count > 1 and isinstance(error, LOST):
                again = again.replace("Continue with:", "Continue, on all workers, with:")
                raise RunError(f"another worker is gone or cannot be reached ({reason}). {again}") from error
            if smaller := self._smaller(error):
                again = f"{again} {smaller}" if begun else f"Start again with {smaller}."
            raise RunError(f"TensorFlow failed: {reason}. {again}") from error

    def _smaller(self, error: tf.errors.OpError) -> str:
        if not isinstance(error, tf.errors.ResourceExhaustedError) or "micro_batch" not in self.plan.execution_fields:
            return ""
        if self.plan.micro_batch.value > 1:
            return f"--micro-batch {self.plan.micro_batch.value // 2}"
        return "" if self.plan.remat.value else "--remat"

    @contextmanager
    def _holding_the_run(self) -> Iterator[None]:
        """Lock the run folder within the block; only the chief holds the lock."""
        with ExitStack() as held:
            with self.workers.together():
                if self.workers.chief:
                    held.enter_context(self.run.locked())
            yield

    def check_images(self) -> None:
        """Decode every image of the run once, so that no bad file stops it later. Raises DataError for bad files."""
        with self.workers.together():
            self._check_images()

    def _check_images(self) -> None:
        bad, total = [], sum(map(len, self.used))
        with self.reporter.stage("Checking", total) as report:
            done = 0
            for examples in self.used:
                part = self.workers.shard.part(len(examples))
                bad += undecodable(examples.take(np.arange(part.start, part.stop)))
                done += len(examples)
                report(done, "images decoded")
        if bad:
            advice = "Repair or remove them"
            if not self.plan.recipe.skip_corrupt:
                advice += ", or leave them out with --skip-corrupt"
            raise DataError(f"{len(bad)} of the images cannot be decoded: {listed(bad)}. {advice}.")

    def _restore(self) -> int:
        """Restore the newest readable checkpoint, which only the chief needs to have, on all workers.

        Returns its number of steps, 0 if there is none.
        """
        first, arrays = 0, None
        if self.workers.chief:
            first, arrays = latest_checkpoint(self.run.checkpoints, self.reporter.say) or (0, None)
        if not self.workers.broadcast(arrays is not None):
            self.initialise()
            return 0
        self.step.restore(self.workers.broadcast_arrays(arrays or self.step.snapshot()))
        return int(self.workers.broadcast(first))

    def _finish(self, first: int) -> R:
        """Train from step `first` to the last, then conclude."""
        if first < self.plan.steps:
            feed = Feed(self.cut, self.plan.micro_batch.value, first)
            evaluate = self.evaluate_on_the_way
            loop = Loop(self.step, self.plan, self.run, feed, evaluate, self.workers, self.reporter, self.clock)
            try:
                loop.train(first)
            finally:
                self.plan = loop.plan  # with the micro-batch that fitted
        with raising_interrupted(self.run, "after training"):
            return self.conclude()

    def cut(self, first: int, micro_batch: int) -> tuple[int, Iterator[MicroBatch]]:
        """Return the number of micro-batches in a step, and the micro-batches from step `first` on, for all devices."""
        # Endless: otherwise workers would ask each other before every micro-batch whether there is one.
        endless = self.batches(micro_batch, range(first, self.plan.steps)).repeat()
        micro_batches = iter(self.strategy.distribute_datasets_from_function(lambda _: endless))
        return self.workers.shard.rounds(self.plan.batch.value, micro_batch), micro_batches

    def export(self, examples: Examples, probabilities: npt.NDArray[np.float32], temperature: float = 1.0) -> Parity:
        """Export the classifier as a SavedModel, and compare it with the evaluation.

        `probabilities` are the evaluation's, float32 [N, classes], for the labelled `examples`; logits are divided by
        `temperature`. Raises RunError, and deletes the export, if it cannot be written or disagrees.
        """
        run = self.run
        self.reporter.say("Exporting, and comparing with the evaluation in a fresh process ...")
        shutil.rmtree(run.export, ignore_errors=True)
        card = Card(
            name=run.path.resolve().name,
            class_names=self.plan.class_names,
            size=self.plan.evaluation_size.value,
            temperature=temperature,
        )
        try:
            with os_errors_as(RunError, f"cannot write {run.saved_model}"):
                export_saved_model(self._exported(), card, run.saved_model)
            tolerance = AFTER_GPU if self.plan.machine.gpus else FLOAT32
            parity = check_parity(run.saved_model, "saved_model", "none", card, examples, probabilities, tolerance)
            return add_parity(run.parity_file, parity)
        except BaseException:
            shutil.rmtree(run.export, ignore_errors=True)
            raise

    def _exported(self) -> Classifier:
        """Return a copy for inference on one device, with folded kernels."""
        if self.strategy is tf.distribute.get_strategy():  # the default
            return self.evaluator.refresh()
        copy = self.classifier.for_inference()
        fold(self.classifier, copy)
        return copy
