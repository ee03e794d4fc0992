"""The training loop: steps, metrics, checkpoints, a clean stop, and smaller pieces when memory ends.

The micro-batches of every step, cut smaller when memory ends.

TensorBoard event files: the figures of metrics.jsonl once more, for who likes to watch them.

TensorFlow alone writes them; only to look at them takes the package tensorboard: `tensorboard --logdir RUN`.
"""

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

import tensorflow as tf

from hyperrule.data.pipeline import MicroBatch
from hyperrule.errors import Interrupted, RunError
from hyperrule.planning.training_plan import Decided, TrainingPlan
from hyperrule.run_folder import RunFolder, save_checkpoint
from hyperrule.support.progress import Reporter
from hyperrule.training.step import StepResult, TrainingStep
from hyperrule.training.stop import StopRequest, interrupted, noting_signals
from hyperrule.training.workers import Workers

Cut = Callable[[int, int], tuple[int, Iterator[MicroBatch]]]


class Feed:
    """`cut(step, micro_batch)` gives the micro-batches from a step on, and how many make up one step.

    The micro-batch is a number of examples for each device; which examples make up a step does not depend on it.
    """

    def __init__(self, cut: Cut, micro_batch: int, first: int) -> None:
        self._cut = cut
        self.begin(first, micro_batch)

    def begin(self, step: int, micro_batch: int) -> None:
        """Go on at the start of a step, with micro-batches of this size."""
        self.micro_batch = micro_batch
        self.per_step, self._micro_batches = self._cut(step, micro_batch)

    def step(self) -> Iterator[MicroBatch]:
        """The micro-batches of the next step."""
        return islice(self._micro_batches, self.per_step)


P = TypeVar("P", bound=TrainingPlan)
CHECKPOINT_SECONDS = 60.0
SLOW_STEP = 5.0  # seconds; where steps take longer, workers agree after every micro-batch whether to stop
OVERFLOWS = 50  # steps in a row: the loss scale is then 2^50 times smaller, and something else is wrong

Evaluate = Callable[[Callable[[], None]], dict[str, float]]


class Loop(Generic[P]):
    """The steps of a plan's schedule, all workers in step; the chief writes to the run folder.

    `evaluate(check)` gives the figures of an evaluation on the way, and calls `check` now and then, which may raise.
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
    ) -> None:
        self.step = step
        self.plan = plan
        self.run = run
        self.feed = feed
        self.evaluate = evaluate
        self.workers = workers
        self.reporter = reporter
        self.events = Events(run) if plan.recipe.tensorboard and workers.chief else None
        self.stop = StopRequest()
        self.last_checkpoint = time.monotonic()
        self.step_seconds = math.inf
        self.slow = True  # what all workers have agreed upon
        self.overflows = self.overflows_in_a_row = 0

    def train(self, first: int) -> None:
        """Run steps `first` to the last. Where memory ends, `plan` gets the micro-batch that fits.

        Raises Interrupted, after a checkpoint, when SIGINT or SIGTERM asks a worker to stop; RunError, with the
        last checkpoint kept, when loss or gradient is not finite or memory does not do for a single example.
        """
        steps = self.plan.steps
        with noting_signals(self.stop), self.reporter.stage("Training", steps, first) as report:
            if not self._evaluated(first):
                self._evaluate_if_due(first)
            for index in range(first, steps):
                start = time.perf_counter()
                rate = self.plan.learning_rate(index)
                result = self._step(index, rate)
                done = index + 1
                self._check_finite(result, done)
                self.step_seconds = time.perf_counter() - start
                images_per_second = self.plan.batch.value / self.step_seconds
                self._record({"kind": "step", "step": done, **_figures(result, rate, images_per_second)})
                overflows = f"  {self.overflows} overflows" if self.overflows else ""
                report(done, f"loss {result.loss:.4f}  lr {rate:.2g}  {images_per_second:.3g} images/s{overflows}")
                self._evaluate_if_due(done)
                if self._checkpoint_due(done):
                    self._checkpoint(done)
            if self.workers.sum(self.stop.received is not None):
                raise self._interrupted(steps)

    def _step(self, index: int, rate: float) -> StepResult:
        """One step, from its start again in smaller pieces as often as memory ends."""
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
        return self.step.update(rate)  # if this fails for want of memory, the other workers cannot know

    def _take(self, index: int, micro_batch: MicroBatch, last: bool) -> None:
        """Take in a micro-batch; raises what all workers have agreed upon: to stop, or that memory has ended."""
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
            f"Memory does not do for {micro_batch} examples at once: step {index + 1} begins again with "
            f"micro-batches of {self.feed.micro_batch}."
        )

    def _stop(self, done: int) -> None:
        self._checkpoint(done)
        self.workers.wait()  # or the chief, still writing, would lose the others
        raise self._interrupted(done)

    def _interrupted(self, done: int) -> Interrupted:
        number = self.stop.received or signal.SIGTERM  # another worker's
        return interrupted(self.run, number, f"after {done} of {self.plan.steps} steps; checkpoint written")

    def _evaluate_if_due(self, done: int) -> None:
        """A signal to any worker ends an evaluation on the way."""
        if self.plan.eval_every.value is None or done % self.plan.eval_every.value != 0:
            return

        def check() -> None:
            if self.workers.sum(self.stop.received is not None):
                self._stop(done)

        self._record({"kind": "evaluation", "step": done, **self.evaluate(check)})

    def _evaluated(self, done: int) -> bool:
        """Whether a run that is resumed after so many steps was stopped before or after its evaluation."""
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
    # JSON has no infinity; a step that overflowed has no gradient to speak of.
    norm = result.gradient_norm if math.isfinite(result.gradient_norm) else None
    loss = result.loss if math.isfinite(result.loss) else None
    return {
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": rate,
        "images_per_second": round(images_per_second, 2),
        **scaling,
    }


V1 = tf.compat.v1  # where the protocol buffers of event files are public
# What tf.summary.scalar says of its values; it itself would need the package.
SCALAR = V1.SummaryMetadata(
    plugin_data=V1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class=1,  # DATA_CLASS_SCALAR, tensorflow/core/framework/summary.proto
)
APART = ("kind", "step")


class Events:
    """Writes the run's `tensorboard/` anew from its metrics.jsonl, so that a resumed run shows every step once; what
    was before then carries the time of resuming."""

    def __init__(self, run: RunFolder) -> None:
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        self._writer = tf.summary.create_file_writer(str(run.tensorboard))
        self.add(*run.read_metrics())

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Show lines of metrics.jsonl: their figures as scalars named KIND/NAME, at their steps."""
        with self._writer.as_default():
            for line in lines:
                tf.summary.experimental.write_raw_pb(_summary(line).SerializeToString(), step=line["step"])
        self._writer.flush()


def _summary(line: Mapping[str, Any]) -> Any:
    """A figure that was not finite is left out."""
    figures = {name: value for name, value in line.items() if name not in APART and value is not None}
    return V1.Summary(value=[_scalar(f"{line['kind']}/{name}", value) for name, value in figures.items()])


def _scalar(tag: str, value: float) -> Any:
    return V1.Summary.Value(tag=tag, tensor=tf.make_tensor_proto(value, tf.float32), metadata=SCALAR)
