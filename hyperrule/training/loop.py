"""The training loop: steps, metrics, checkpoints, and a clean stop."""

import math
import time
from collections.abc import Callable, Iterator

from hyperrule import rule
from hyperrule.data.pipeline import MicroBatch
from hyperrule.errors import RunError
from hyperrule.planning.plan import Plan
from hyperrule.progress import Reporter
from hyperrule.run_folder import RunFolder
from hyperrule.training.checkpoint import save_checkpoint
from hyperrule.training.step import StepResult, TrainingStep
from hyperrule.training.stop import interrupted, noting_signals

CHECKPOINT_SECONDS = 60.0

Evaluate = Callable[[], dict[str, float]]


def train(
    step: TrainingStep,
    plan: Plan,
    run: RunFolder,
    micro_batches: Iterator[MicroBatch],
    micro_batches_per_step: int,
    first: int,
    evaluate: Evaluate,
    reporter: Reporter,
) -> None:
    """Run steps `first` to the last of the plan's schedule; `micro_batches` begins with step `first`.

    Raises Interrupted, after a checkpoint, when SIGINT or SIGTERM asks to stop; RunError, with the
    last checkpoint kept, when loss or gradient is not finite.
    """
    schedule, batch = plan.schedule.value, plan.batch.value
    last_checkpoint = time.monotonic()

    def checkpoint(done: int) -> None:
        nonlocal last_checkpoint
        save_checkpoint(run.checkpoints, done, step.snapshot())
        last_checkpoint = time.monotonic()

    def due(done: int) -> bool:
        if (every := plan.checkpoint_every.value) is not None:
            return done % every == 0
        return time.monotonic() - last_checkpoint >= CHECKPOINT_SECONDS

    with noting_signals() as stop, reporter.stage("Training", schedule.steps, first) as report:
        for index in range(first, schedule.steps):
            start = time.perf_counter()
            rate = rule.learning_rate(index, schedule, plan.base_learning_rate.value)
            for _ in range(micro_batches_per_step):
                if stop.received is not None:
                    checkpoint(index)
                    where = f"after {index} of {schedule.steps} steps; checkpoint written"
                    raise interrupted(run, stop.received, where)
                step.accumulate(next(micro_batches))
            result = step.update(rate)
            done = index + 1
            _check_finite(result, done, run)
            images_per_second = batch / (time.perf_counter() - start)
            run.append_metrics(
                {
                    "kind": "step",
                    "step": done,
                    "loss": result.loss,
                    "gradient_norm": result.gradient_norm,
                    "learning_rate": rate,
                    "images_per_second": round(images_per_second, 2),
                }
            )
            report(done, f"loss {result.loss:.4f}  lr {rate:.2g}  {images_per_second:.3g} images/s")
            if plan.eval_every.value is not None and done % plan.eval_every.value == 0:
                run.append_metrics({"kind": "evaluation", "step": done, **evaluate()})
            if due(done) or done == schedule.steps:
                checkpoint(done)
        if stop.received is not None:
            raise interrupted(run, stop.received, f"after all {schedule.steps} steps; checkpoint written")


def _check_finite(result: StepResult, done: int, run: RunFolder) -> None:
    if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
        kept = f"; the last checkpoint in {run.checkpoints} is kept" if run.checkpoints.exists() else ""
        raise RunError(
            f"the loss ({result.loss}) or the gradient ({result.gradient_norm}) of step {done} is not finite{kept}. "
            "Start a new run with a smaller --base-lr, or with --precision float32."
        )
