"""The training loop: steps, metrics, checkpoints, a clean stop, and smaller micro-batches when memory runs out.

`Feed` supplies the micro-batches of every step. `Events` copies the figures of metrics.jsonl to TensorBoard event
files, which TensorFlow writes itself; only viewing them needs the package tensorboard: `tensorboard --logdir RUN`.
"""

import math
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

import tensorflow as tf

from hyperrule.data.pipeline import MicroBatch
from hyperrule.errors import Interrupted, RunError
from hyperrule.planning.budget import Clock
from hyperrule.planning.training_plan import FINISHING, Decided, TrainingPlan
from hyperrule.run_folder import RunFolder, save_checkpoint
from hyperrule.support.progress import Reporter
from hyperrule.training.step import StepResult, TrainingStep
from hyperrule.training.stop import StopRequest, interrupted, noting_signals
from hyperrule.training.workers import Workers

CHECKPOINT_SECONDS = 60.0
SLOW_STEP = 5.0  # seconds; where steps take longer, workers agree after every micro-batch whether to stop
RECENT = 8  # steps whose median says how long one takes
OVERFLOWS = 50  # steps in a row: the loss scale is then 2^50 times smaller, and something else is wrong

V1 = tf.compat.v1  # where the protocol buffers of event files are public
# The metadata that tf.summary.scalar writes; calling it would need the package.
SCALAR = V1.SummaryMetadata(
    plugin_data=V1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class=1,  # DATA_CLASS_SCALAR, tensorflow/core/framework/summary.proto
)
NOT_FIGURES = ("kind", "step")  # keys of a line of metrics.jsonl

P = TypeVar("P", bound=TrainingPlan)
Cut = Callable[[int, int], tuple[int, Iterator[MicroBatch]]]
Evaluate = Callable[[Callable[[], None]], dict[str, float]]


class Feed:
    """Supplies the micro-batches of every step; the micro-batch size can change between steps.

    `cut(step, micro_batch)` returns how many micro-batches make up one step, and the micro-batches from `step` on.
    `micro_batch` counts the examples on each device. Which examples make up a step does not depend on it.
    """

    def __init__(self, cut: Cut, micro_batch: int, first: int) -> None:
        self._cut = cut
        self.begin(first, micro_batch)

    def begin(self, step: int, micro_batch: int) -> None:
        """Continue at the start of `step`, with micro-batches of this size."""
        self.micro_batch = micro_batch
        self.per_step, self._micro_batches = self._cut(step, micro_batch)

    def step(self) -> Iterator[MicroBatch]:
        """Return the micro-batches of the next step."""
        return islice(self._micro_batches, self.per_step)


class Loop(Generic[P]):
    """Runs the steps of a plan's schedule, synchronously on all workers; the chief writes to the run folder.

    Where steps take longer than was measured, the rest of the schedule is shortened so that a budget is kept.

    `evaluate(check)` returns the figures of an evaluation during training. It calls `check` regularly, which may raise.
    """

    def __init__(
        self,
        step: TrainingStep,
        plan: P,
        run: RunFolder,
        feed: Feed,
        evaluate: Evaluate,
        workers: Workers,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self.step = step
        self.plan = plan
        self.run = run
        self.feed = feed
        self.evaluate = evaluate
        self.workers = workers
        self.reporter = reporter
        self.clock = clock
        self.recent: deque[float] = deque(maxlen=RECENT)  # seconds of the last steps
        self.events = Events(run) if plan.recipe.tensorboard and workers.chief else None
        self.stop = StopRequest()
        self.last_checkpoint = time.monotonic()
        self.step_seconds = math.inf
        self.slow = True  # agreed by all workers
        self.overflows = self.overflows_in_a_row = 0

    def train(self, first: int) -> None:
        """Run the steps from `first` to the last. When memory runs out, `plan` records the smaller micro-batch.

        Raises Interrupted, after writing a checkpoint, if SIGINT or SIGTERM asks a worker to stop. Raises RunError if
        the loss or the gradient is not finite, and TensorFlow's ResourceExhaustedError if not even one example fits
        in memory; the last checkpoint is kept.
        """
        done = first
        with noting_signals(self.stop), self.reporter.stage("Training", self.plan.steps, first) as report:
            if not self._evaluated(first):
                self._evaluate_if_due(first)
            while done < self.plan.steps:
                start, index = time.perf_counter(), done
                rate = self.plan.learning_rate(index)
                result = self._step(index, rate)
                done = index + 1
                self._check_finite(result, done)
                self.step_seconds = time.perf_counter() - start
                images_per_second = self.plan.batch.value / self.step_seconds
                elapsed = {} if self.plan.calibration is None else {"elapsed": round(self.clock.elapsed, 1)}
                self._record({"kind": "step", "step": done, **_figures(result, rate, images_per_second), **elapsed})
                overflows = f"  {self.overflows} overflows" if self.overflows else ""
                report(done, f"loss {result.loss:.4f}  lr {rate:.2g}  {images_per_second:.3g} images/s{overflows}")
                self._evaluate_if_due(done)
                self._keep_to_the_budget(done)
                if self._checkpoint_due(done):
                    self._checkpoint(done)
            if self.workers.sum(self.stop.received is not None):
                raise self._interrupted(done)

    def _keep_to_the_budget(self, done: int) -> None:
        """Shorten the rest of the schedule if it would take longer than the time that is left for it."""
        calibration = self.plan.calibration
        if calibration is None or done == self.plan.steps:
            return
        self.recent.append(self.step_seconds)
        usual = sorted(self.recent)[(len(self.recent) - 1) // 2]
        left = self.clock.left - calibration.evaluation - FINISHING
        affordable = int(self.workers.broadcast(max(0, int(left / usual))))
        if done + affordable >= self.plan.steps or len(self.recent) < min(RECENT, self.plan.steps // 10):
            return
        steps = done + affordable
        reason = f"steps take {usual:.2f} s now: the schedule was shortened from {self.plan.steps} steps at step {done}"
        self.plan = self.plan.slowed(done, steps, reason)
        if self.workers.chief:
            self.run.write(self.run.plan_file, self.plan.model_dump_json(indent=2) + "\n")
        self.reporter.say(f"Schedule: {reason}, now {steps} steps.")

    def _step(self, index: int, rate: float) -> StepResult:
        """Run one step; whenever memory runs out, start it again with smaller micro-batches."""
        while True:
            try:
                for number, micro_batch in enumerate(self.feed.step(), 1):
                    self._take(index, micro_batch, last=number == self.feed.per_step)
                if self.workers.count == 1:
                    return self.step.update(rate)
                break
            except tf.errors.ResourceExhaustedError as error:
                self.step.discard()
                self._halve(index, error)
        return self.step.update(rate)  # running out of memory here ends the run: the other workers cannot know

    def _take(self, index: int, micro_batch: MicroBatch, last: bool) -> None:
        """Accumulate a micro-batch. Raises on every worker if one was asked to stop or ran out of memory."""
        alone = self.workers.count == 1
        exhausted = None
        try:
            self.step.accumulate(micro_batch)
            if last and not alone:
                self.step.flush()
        except tf.errors.ResourceExhaustedError as error:
            exhausted = error
        if alone or last or exhausted is not None or self.slow:
            stopped, out_of_memory, slow = self.workers.sum(
                [self.stop.received is not None, exhausted is not None, self.step_seconds > SLOW_STEP]
            )
            if stopped:
                self._stop(index)
            if out_of_memory:
                raise exhausted or tf.errors.ResourceExhaustedError(None, None, "another worker has no memory left")
            if last:
                self.slow = bool(slow)

    def _halve(self, index: int, error: Exception) -> None:
        micro_batch = self.feed.micro_batch
        if micro_batch == 1 or "micro_batch" not in self.plan.execution_fields:
            raise error
        self.feed.begin(index, math.ceil(micro_batch / 2))
        halved = Decided(value=self.feed.micro_batch, reason=f"{micro_batch} did not fit into memory", source="machine")
        self.plan = self.plan.model_copy(update={"micro_batch": halved})
        if self.workers.chief:
            self.run.write(self.run.plan_file, self.plan.model_dump_json(indent=2) + "\n")
        self.reporter.say(
            f"Micro-batch {micro_batch} does not fit in memory: step {index + 1} starts again with "
            f"micro-batch {self.feed.micro_batch}."
        )

    def _stop(self, done: int) -> None:
        self._checkpoint(done)
        self.workers.wait()  # the chief, still writing, would fail if the others ended
        raise self._interrupted(done)

    def _interrupted(self, done: int) -> Interrupted:
        number = self.stop.received or signal.SIGTERM  # another worker's
        return interrupted(self.run, number, f"after {done} of {self.plan.steps} steps; checkpoint written")

    def _evaluate_if_due(self, done: int) -> None:
        """Evaluate if the plan says so after `done` steps; a signal to any worker stops the evaluation."""
        if self.plan.eval_every.value is None or done % self.plan.eval_every.value != 0:
            return

        def check() -> None:
            if self.workers.sum(self.stop.received is not None):
                self._stop(done)

        self._record({"kind": "evaluation", "step": done, **self.evaluate(check)})

    def _evaluated(self, done: int) -> bool:
        """Whether the evaluation after `done` steps is in the log already; a resumed run may have stopped before it."""
        lines = self.run.read_metrics() if self.workers.chief else []
        known = done == 0 or any(line["kind"] == "evaluation" and line["step"] == done for line in lines)
        return bool(self.workers.broadcast(known))

    def _record(self, line: dict[str, object]) -> None:
        if self.workers.chief:
            self.run.append_metrics(line)
        if self.events is not None:
            self.events.add(line)

    def _checkpoint_due(self, done: int) -> bool:
        if done == self.plan.steps:
            return True
        if (every := self.plan.checkpoint_every.value) is not None:
            return done % every == 0
        return time.monotonic() - self.last_checkpoint >= CHECKPOINT_SECONDS

    def _checkpoint(self, done: int) -> None:
        if self.workers.chief:
            save_checkpoint(self.run.checkpoints, done, self.step.snapshot(), self.run.resume)
        self.last_checkpoint = time.monotonic()

    def _check_finite(self, result: StepResult, done: int) -> None:
        self.overflows += result.overflowed
        self.overflows_in_a_row = self.overflows_in_a_row + 1 if result.overflowed else 0
        finite = math.isfinite(result.loss) and math.isfinite(result.gradient_norm)
        if finite or (result.overflowed and self.overflows_in_a_row < OVERFLOWS):
            return
        kept = f"; the last checkpoint in {self.run.checkpoints} is kept" if self.run.checkpoints.exists() else ""
        again = f" for the {OVERFLOWS}th time in a row" if result.overflowed else ""
        raise RunError(
            f"the loss ({result.loss}) or the gradient ({result.gradient_norm}) of step {done} is not finite{again}"
            f"{kept}. Start a new run with a smaller --base-lr, or with --precision float32."
        )


def _figures(result: StepResult, rate: float, images_per_second: float) -> dict[str, object]:
    scaling = {} if result.loss_scale is None else {"loss_scale": result.loss_scale, "overflow": result.overflowed}
    # JSON has no infinity.
    norm = result.gradient_norm if math.isfinite(result.gradient_norm) else None
    loss = result.loss if math.isfinite(result.loss) else None
    return {
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": rate,
        "images_per_second": round(images_per_second, 2),
        **scaling,
    }


class Events:
    """Writes TensorBoard event files to the run's `tensorboard/`.

    They are written anew from metrics.jsonl when a run resumes, so that every step is there once; steps before
    that carry the time of resuming.
    """

    def __init__(self, run: RunFolder) -> None:
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        self._writer = tf.summary.create_file_writer(str(run.tensorboard))
        self.add(*run.read_metrics())

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Write the figures in lines of metrics.jsonl as scalars named KIND/NAME, at their steps."""
        with self._writer.as_default():
            for line in lines:
                tf.summary.experimental.write_raw_pb(_summary(line).SerializeToString(), step=line["step"])
        self._writer.flush()


def _summary(line: Mapping[str, Any]) -> Any:
    """Return the line's figures as a Summary message, without those that were not finite (None)."""
    figures = {name: value for name, value in line.items() if name not in NOT_FIGURES and value is not None}
    return V1.Summary(value=[_scalar(f"{line['kind']}/{name}", value) for name, value in figures.items()])


def _scalar(tag: str, value: float) -> Any:
    return V1.Summary.Value(tag=tag, tensor=tf.make_tensor_proto(value, tf.float32), metadata=SCALAR)
