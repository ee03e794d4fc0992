"""Measures, on this device before step 0, how long steps and evaluation take, to fit a run into a time budget."""

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
    """A job whose steps and evaluation can be timed: `cut` returns micro-batches, `outputs` evaluates examples."""

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
    """Time a step and the evaluation, in seconds, then restore the weights; times are the mean over all workers."""
    before = job.step.snapshot()
    per_step, micro_batches = job.cut(0, job.plan.micro_batch.value)
    whole = per_step == 1 and job.workers.count == 1

    def train(share: int) -> None:
        """Run `share` micro-batches at learning rate 0: as steps of one if the run has those, else as one step."""
        for group in [1] * share if whole else [share]:
            job.step.run(islice(micro_batches, group), 0.0)  # reading its loss waits for the device

    train(1 if whole else 2)  # compiles
    update = 0.0 if whole else _seconds(job.workers, partial(train, 0))
    done, seconds, micro_seconds = 0, 0.0, 0.0
    while done < 3 or (seconds < CALIBRATION_SECONDS and done < 64):
        # The pipeline made its first micro-batches while the step compiled: only the last share is typical.
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
    """Return how many images' features fit into a quarter of the budget, in seconds; at least two micro-batches."""
    sample = training.take(np.arange(min(len(training), micro_batch)))
    features(sample)  # compiles
    rate: float = len(sample) / _seconds(workers, partial(features, sample))
    return max(2 * micro_batch, int(PROBE_SHARE * budget * rate))


def _evaluation_seconds(job: Measurable) -> float:
    """Estimate the seconds of the final evaluation from three micro-batches, after one that compiles."""
    micro_batch = job.plan.micro_batch.value
    seconds = 0.0
    for micro_batches in (1, 3):
        sample = job.testing.take(np.arange(min(len(job.testing), micro_batches * micro_batch)))
        seconds = _seconds(job.workers, partial(job.outputs, sample)) / len(sample)
    return seconds * job.evaluated_at_the_end


def _seconds(workers: Workers, work: Callable[[], object]) -> float:
    """Return the seconds that the work takes, the mean over all workers."""
    start = time.perf_counter()
    work()
    return float(workers.sum(time.perf_counter() - start)) / workers.count
