"""What a budget pays for, measured on this device before step 0."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np

from hyperrule.data.images import Examples
from hyperrule.data.pipeline import MicroBatch
from hyperrule.planning.training_plan import Calibration, TrainingPlan
from hyperrule.training.step import TrainingStep
from hyperrule.training.workers import Workers

CALIBRATION_SECONDS = 5.0
PROBE_SHARE = 0.25  # of a budget
SAFETY = 1.1  # a shared machine's next minutes are not its last ones


class Measurable(Protocol):
    """A job whose steps and evaluation can be timed: `cut` gives the micro-batches, `outputs` evaluates examples."""

    step: TrainingStep
    workers: Workers
    started: float

    @property
    def plan(self) -> TrainingPlan: ...
    @property
    def testing(self) -> Examples: ...
    @property
    def evaluated_at_the_end(self) -> int: ...
    def cut(self, first: int, micro_batch: int) -> tuple[int, Iterator[MicroBatch]]: ...
    def outputs(self, examples: Examples) -> object: ...


def calibrate(job: Measurable) -> Calibration:
    """Time a step and the evaluation, and leave everything as it was. Workers agree on the mean of their times."""
    before = job.step.snapshot()
    per_step, micro_batches = job.cut(0, job.plan.micro_batch.value)
    whole = per_step == 1 and job.workers.count == 1

    def train(share: int) -> None:
        """Steps of one micro-batch each, or one of several, as the run will have them, at rate 0."""
        for group in [1] * share if whole else [share]:
            job.step.run(islice(micro_batches, group), 0.0)  # reading its loss waits for the device

    train(1 if whole else 2)  # compiles
    update = 0.0 if whole else _seconds(job.workers, partial(train, 0))
    done, seconds, micro_seconds = 0, 0.0, 0.0
    while done < 3 or (seconds < CALIBRATION_SECONDS and done < 64):
        # The first share of a pipeline's output was made while the step compiled: only the last counts.
        share = max(1, done)
        latest = _seconds(job.workers, partial(train, share)) - update
        done += share
        seconds += latest
        micro_seconds = latest / share
    evaluation = _evaluation_seconds(job)
    job.step.restore(before)
    return Calibration(
        elapsed=round(float(job.workers.broadcast(time.monotonic() - job.started)), 2),
        step=round(SAFETY * (max(micro_seconds, 1e-4) * per_step + update), 4),
        evaluation=round(SAFETY * evaluation, 2),
    )


def affordable_features(
    budget: float, micro_batch: int, training: Examples, features: Callable[[Examples], object], workers: Workers
) -> int:
    """Training images whose features a quarter of the budget, in seconds, pays for; at least two micro-batches."""
    sample = training.take(np.arange(min(len(training), micro_batch)))
    features(sample)  # compiles
    rate: float = len(sample) / _seconds(workers, partial(features, sample))
    return max(2 * micro_batch, int(PROBE_SHARE * budget * rate))


def _evaluation_seconds(job: Measurable) -> float:
    """Time of the final evaluation, from one micro-batch (which compiles) and three."""
    micro_batch = job.plan.micro_batch.value
    seconds = 0.0
    for micro_batches in (1, 3):
        sample = job.testing.take(np.arange(min(len(job.testing), micro_batches * micro_batch)))
        seconds = _seconds(job.workers, partial(job.outputs, sample)) / len(sample)
    return seconds * job.evaluated_at_the_end


def _seconds(workers: Workers, work: Callable[[], object]) -> float:
    """Duration of the work, the mean of all workers."""
    start = time.perf_counter()
    work()
    return float(workers.sum(time.perf_counter() - start)) / workers.count
