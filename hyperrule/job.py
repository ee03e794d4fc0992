"""The main job: plan -> data -> head -> training -> evaluation -> export, each into the run folder."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import softmax

from hyperrule.backbones.checkpoints import StoredArrays, write_arrays
from hyperrule.calibration import affordable_features, calibrate
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
from hyperrule.planning.cluster import this_cluster
from hyperrule.planning.plan import Calibration, Plan
from hyperrule.planning.planner import calibrated, training_examples
from hyperrule.progress import Reporter
from hyperrule.run_folder import RunFolder, free_run_folder
from hyperrule.summary import summary
from hyperrule.training import runtime
from hyperrule.training.agreement import agreed
from hyperrule.training.checkpoint import latest_checkpoint, save_checkpoint
from hyperrule.training.classifier import Classifier, fold, make_classifier
from hyperrule.training.feed import Feed
from hyperrule.training.loop import Loop
from hyperrule.training.step import TrainingStep
from hyperrule.training.stop import raising_interrupted
from hyperrule.training.workers import LOST, Workers
from hyperrule.wording import listed, resume_command

PROBE_EXAMPLES = 10_000  # the closed form needs no more, and its time grows with each


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, its plan, its figures."""

    run: RunFolder
    plan: Plan
    metrics: Metrics
    parity: Parity


def run_plan(plan: Plan, source: Source, run: RunFolder | None, reporter: Reporter) -> Result:
    """Execute a plan into a new run folder, under runs/ if none is given.

    Raises UserError, with nothing written, if the request cannot be met; RunError, with the run
    resumable, if the work cannot be finished.
    """
    run = run or RunFolder(free_run_folder(plan.dataset.name))
    return Job(plan, source, run, reporter).execute(resuming=False)


def resume_run(
    plan: Plan, source: Source, run: RunFolder, calibration: Calibration | None, reporter: Reporter
) -> Result:
    """Go on with the run in a folder at its newest readable checkpoint, or from the start if it has none.

    `plan` has no differences to the stored one, but may say anew where files lie and how to cut up a batch;
    `calibration` is what a budgeted run measured. Of several workers only the chief needs the folder.
    """
    return Job(plan, source, run, reporter).execute(resuming=True, calibration=calibration)


def folder_result(run: RunFolder) -> Result:
    """The result of a finished run, from its files."""
    metrics = Metrics.model_validate_json(run.eval_file.read_text(encoding="utf-8"))
    parity = Parity.model_validate_json(run.parity_file.read_text(encoding="utf-8"))
    return Result(run, run.read_plan(), metrics, parity)


class Job:
    """One fine-tuning in memory: the plan, its data, and the network under training."""

    strategy: tf.distribute.Strategy
    workers: Workers
    classifier: Classifier
    step: TrainingStep

    def __init__(self, plan: Plan, source: Source, run: RunFolder, reporter: Reporter) -> None:
        self.plan = plan
        self.source = source
        self.run = run
        self.reporter = reporter
        self.cluster = this_cluster()
        self.started = time.monotonic()

    def _start(self) -> None:
        """Devices, the other workers, and the network on all of them."""
        plan, own = self.plan, self.plan.backbone.as_it_is
        if self.cluster.count > 1:
            self.reporter.say(f"Waiting for all {self.cluster.count} workers ...")
        self.strategy = runtime.start(
            plan.machine,
            self.cluster,
            deterministic=(own is None or not own.draws_random_numbers) and not plan.xla.value,
            memory_limit=plan.recipe.memory_limit,
            tpu=plan.recipe.devices == "tpu",
        )
        self.workers = Workers(self.strategy, self.cluster)
        self.plan = plan = agreed(plan, self.workers)
        keras.utils.set_random_seed(plan.seed.value)  # random backbones; everything else is stateless
        with self.strategy.scope():
            self.classifier = make_classifier(plan.backbone, plan.classes, plan.precision.value, remat=plan.remat.value)
            self.classifier.backbone.train_part(plan.train.value)
            self.step = TrainingStep(self.classifier, self.strategy, plan.batch.value, xla=plan.xla.value)

    @cached_property
    def training(self) -> Examples:
        return training_examples(self.plan.recipe, self.source)

    @cached_property
    def testing(self) -> Examples:
        return self.source.examples(self.plan.test_split.value)

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.classifier, self.plan.evaluation_size.value, self.plan.micro_batch.value, self.workers)

    def execute(self, resuming: bool, calibration: Calibration | None = None) -> Result:
        """From here to the result; the chief knows whether the run is new."""
        with self._told_of_failures():
            self._start()
            if self.workers.broadcast(resuming):
                return self._go_on(calibration)
            return self._begin()

    def _begin(self) -> Result:
        self.check_images()
        for warning in self.plan.dataset.warnings:
            self.reporter.say(f"Warning: {warning}.")
        self.initialise()
        if self.plan.recipe.budget is not None:
            self.plan = calibrated(self.plan, calibrate(self))
            self.reporter.say(f"Schedule: {self.plan.schedule.reason}.")
        with self.workers.together():
            if self.workers.chief:
                self.run.create(self.plan)
        with self._holding_the_run():
            if self.workers.chief and self.plan.head_init.value == "probe":
                # How many images a budget pays for is measured, and only once.
                save_checkpoint(self.run.checkpoints, 0, self.step.snapshot())
            return self._finish(0)

    def _go_on(self, calibration: Calibration | None) -> Result:
        told = self.workers.texts(calibration.model_dump_json() if calibration is not None else "")[0]
        if told:
            self.plan = calibrated(self.plan, Calibration.model_validate_json(told))
        with self._holding_the_run():
            first = self._restore()
            steps = self.plan.schedule.value.steps
            self.reporter.say(f"Resuming {self.run.path} at step {first} of {steps}.")
            if self.workers.chief:
                self.run.write(self.run.plan_file, self.plan.model_dump_json(indent=2) + "\n")
                self.run.rewind_metrics(first)
            return self._finish(first)

    @contextmanager
    def _told_of_failures(self) -> Iterator[None]:
        """What TensorFlow raises within the block becomes a RunError that says how to go on."""
        try:
            yield
        except tf.errors.OpError as error:
            reason = str(error.message).strip().splitlines()[0]
            begun = self.run.plan_file.exists()
            again = f"Continue with: {resume_command(self.run.path)}" if begun else "Start again."
            if self.cluster.count > 1 and isinstance(error, LOST):
                again = again.replace("Continue with:", "Continue, on all workers, with:")
                raise RunError(f"another worker is gone or cannot be reached ({reason}). {again}") from error
            if smaller := self._smaller(error):
                again = f"{again} {smaller}" if begun else f"Start again with {smaller}."
            raise RunError(f"TensorFlow failed: {reason}. {again}") from error

    def _smaller(self, error: tf.errors.OpError) -> str:
        if not isinstance(error, tf.errors.ResourceExhaustedError) or "micro_batch" not in self.plan.how:
            return ""
        if self.plan.micro_batch.value > 1:
            return f"--micro-batch {self.plan.micro_batch.value // 2}"
        return "" if self.plan.remat.value else "--remat"

    @contextmanager
    def _holding_the_run(self) -> Iterator[None]:
        """Within the block no other process may work on the run."""
        with ExitStack() as held:
            with self.workers.together():
                if self.workers.chief:
                    held.enter_context(self.run.locked())
            yield

    def check_images(self) -> None:
        """Decode every image that will be used, once, so that no bad file stops the run later."""
        with self.workers.together():
            self._check_images()

    def _check_images(self) -> None:
        used = [self.training, self.testing]
        if self.plan.eval_every.value is not None and self.plan.eval_split.value != self.plan.test_split.value:
            used.append(self.source.examples(self.plan.eval_split.value))
        bad = []
        with self.reporter.stage("Checking", sum(map(len, used))) as report:
            for index, examples in enumerate(used):
                part = self.workers.shard.part(len(examples))
                bad += undecodable(examples.take(np.arange(part.start, part.stop)))
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

    def _restore(self) -> int:
        """The newest readable checkpoint, which only the chief needs to have; how many steps it has done."""
        first, arrays = 0, None
        if self.workers.chief:
            first, arrays = latest_checkpoint(self.run.checkpoints, self.reporter.say) or (0, None)
        if not self.workers.broadcast(arrays is not None):
            self.initialise()
            return 0
        self.step.restore(self.workers.broadcast_arrays(arrays or self.step.snapshot()))
        return int(self.workers.broadcast(first))

    def _finish(self, first: int) -> Result:
        """Train from step `first`, evaluate, export, compare, and sum up."""
        if first < self.plan.schedule.value.steps:
            feed = Feed(self.cut, self.plan.micro_batch.value, first)
            loop = Loop(self.step, self.plan, self.run, feed, self._evaluate_on_the_way, self.workers, self.reporter)
            try:
                loop.train(first)
            finally:
                self.plan = loop.plan  # with the micro-batch that fitted
        with raising_interrupted(self.run, "after training"):
            return self._conclude()

    def _conclude(self) -> Result:
        """Everything after the last step; done again from the last checkpoint if it is interrupted."""
        logits = self._evaluate(self.testing)
        metrics = compute_metrics(logits, self.testing.labels, self.plan.dataset.class_names)
        parity = self._write(logits, metrics) if self.workers.chief else None
        told = self.workers.texts(parity.model_dump_json() if parity is not None else "")  # the others wait here
        return Result(self.run, self.plan, metrics, Parity.model_validate_json(told[0]))

    def _write(self, logits: npt.NDArray[np.float32], metrics: Metrics) -> Parity:
        """All that remains of the run."""
        run = self.run
        with whole_file(run.weights_file) as partial:
            write_arrays(partial, self.classifier.snapshot())
        probabilities = softmax(logits, axis=1)
        run.write(run.eval_file, metrics.model_dump_json(indent=2) + "\n")
        write_predictions(run.predictions_file, self.testing, probabilities, self.plan.dataset.class_names)
        parity = self._export(probabilities)
        run.write(run.summary_file, summary(self.plan, metrics, parity, run))
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # only now: until the summary is there, they are the run
        return parity

    def cut(self, first: int, micro_batch: int) -> tuple[int, Iterator[MicroBatch]]:
        """Micro-batches a step, and those from step `first` on; each is split over the devices."""
        plan, shard = self.plan, self.workers.shard
        dataset = training_batches(
            self.training,
            plan.classes,
            Augmentation(
                plan.resize.value, plan.crop.value, plan.random_crop.value, plan.random_flip.value, plan.mixup.value
            ),
            plan.batch.value,
            micro_batch,
            range(first, plan.schedule.value.steps),
            plan.seed.value,
            plan.balance.value,
            shard,
        )
        # Endless as far as TensorFlow knows: workers would ask each other before every micro-batch whether it is there.
        endless = dataset.repeat()
        micro_batches = iter(self.strategy.distribute_datasets_from_function(lambda _: endless))
        return shard.rounds(plan.batch.value, micro_batch), micro_batches

    def _initialise_head(self) -> None:
        """Fit the closed-form probe on the features of at most 10,000 training images."""
        examples = self.training
        most = PROBE_EXAMPLES if self.plan.recipe.budget is None else min(PROBE_EXAMPLES, affordable_features(self))
        if len(examples) > most:
            chosen = np.random.default_rng(self.plan.seed.value).permutation(len(examples))[:most]
            examples = examples.take(np.sort(chosen))
        with self.reporter.stage("Features", len(examples)) as report:
            features = self.evaluator.features(examples, report)
        kernel, bias = fit_head(features, examples.labels, self.plan.classes)
        with self.strategy.scope():  # the chief's: another machine may round otherwise
            self.classifier.head.kernel.assign(self.workers.broadcast(kernel))
            self.classifier.head.bias.assign(self.workers.broadcast(bias))

    def _evaluate_on_the_way(self, check: Callable[[], None]) -> dict[str, float]:
        examples = self.source.examples(self.plan.eval_split.value)
        logits = self._evaluate(examples, check)
        metrics = compute_metrics(logits, examples.labels, self.plan.dataset.class_names)
        self.reporter.say(f"Accuracy on {self.plan.eval_split.value}: {metrics.top1:.2%}")
        return {"top1": metrics.top1, "top5": metrics.top5, "loss": metrics.loss}

    def _evaluate(self, examples: Examples, check: Callable[[], None] = lambda: None) -> npt.NDArray[np.float32]:
        with self.reporter.stage("Evaluation", len(examples)) as report:

            def report_and_check(done: int, detail: str) -> None:
                report(done, detail)
                check()

            return self.evaluator.logits(examples, report_and_check)

    def _export(self, probabilities: npt.NDArray[np.float32]) -> Parity:
        """Export, and keep the export only if it says what the evaluation said."""
        run = self.run
        self.reporter.say("Exporting, and comparing with the evaluation in a fresh process ...")
        shutil.rmtree(run.export, ignore_errors=True)
        class_names = self.plan.dataset.class_names
        try:
            with os_errors_as(RunError, f"cannot write {run.saved_model}"):
                export_saved_model(self._exported(), class_names, self.plan.evaluation_size.value, run.saved_model)
            tolerance = GPU_TOLERANCE if self.plan.machine.gpus else TOLERANCE
            parity = check_parity(run.saved_model, self.testing, probabilities, class_names, tolerance)
        except BaseException:
            shutil.rmtree(run.export, ignore_errors=True)
            raise
        run.write(run.parity_file, parity.model_dump_json(indent=2) + "\n")
        return parity

    def _exported(self) -> Classifier:
        """A folded copy on one device."""
        if self.strategy is tf.distribute.get_strategy():  # the default
            return self.evaluator.refresh()
        copy = self.classifier.for_inference()
        fold(self.classifier, copy)
        return copy
