"""Measures, before step 0, which backbone and size suit the data, and how long steps and evaluation take: what is
needed to fit a run into a time budget."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np

from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.pipeline import MicroBatch
from hyperrule.data.selection import nested_subset
from hyperrule.data.source import Source
from hyperrule.evaluation.inference import Pass, failures_explained
from hyperrule.evaluation.probe import left_out_accuracy
from hyperrule.planning.budget import (
    FEATURES_SHARE,
    SMALLEST_BATCH,
    TRAINING_COST,
    Choice,
    Clock,
    Trial,
    choose,
    next_size,
)
from hyperrule.planning.finetune import demand, training_examples
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.training_plan import FINISHING, Calibration, TrainingPlan
from hyperrule.recipe import Recipe
from hyperrule.support.progress import Reporter
from hyperrule.training import runtime
from hyperrule.training.classifier import load_classifier
from hyperrule.training.step import TrainingStep
from hyperrule.training.workers import Workers

CALIBRATION_SECONDS, CALIBRATION_SHARE = 5.0, 0.03  # at most, and of a budget
SURVEY_SHARE, MOST_OF_SURVEY = 0.1, 0.2  # of a budget, after which no other backbone, and no other size, is tried
SMALL_SAMPLE, LARGE_SAMPLE = 200, 400  # training images that are tried
LEAST_EACH = 4  # of a class, so that of many classes only some are tried
ROOMY = 120.0  # seconds of a budget from which on more images are tried
SAFETY = 1.1  # a shared machine's next minutes are not its last ones


def surveyed(
    recipe: Recipe,
    source: Source,
    backbones: Sequence[BackboneInfo],
    machine: Machine,
    clock: Clock,
    reporter: Reporter,
) -> tuple[BackboneInfo, Choice]:
    """Try backbones and sizes on training images, and return the best backbone and the whole choice.

    A backbone is tried at the sizes of `next_size`; others follow while trials have taken at most a tenth of the
    budget. Raises DataError if an image cannot be decoded.
    """
    examples = training_examples(recipe, source)
    classes = len(source.info.class_names)
    most = LARGE_SAMPLE if clock.budget >= ROOMY else SMALL_SAMPLE
    tried_classes = np.random.default_rng(recipe.seed).permutation(classes)[: most // LEAST_EACH]
    counts = np.zeros(classes, np.int64)
    counts[tried_classes] = math.ceil(most / len(tried_classes))
    sample = examples.take(nested_subset(examples.labels, counts, recipe.seed))
    demands = {one.name: demand(recipe, source, one, machine) for one in backbones}
    trials: list[Trial] = []
    tried: list[Trial]
    with failures_explained(sample, demands[backbones[0].name].crop):
        for backbone in backbones:
            if trials and clock.since_start > SURVEY_SHARE * clock.budget:
                break
            reporter.say(f"Trying {backbone.name} on {len(sample)} training images ...")
            extract, tried = _Extractor(backbone, machine, recipe), []
            while (size := next_size(tried, demands[backbone.name], clock.left)) is not None:
                if tried and clock.since_start > MOST_OF_SURVEY * clock.budget:
                    break
                tried.append(extract.tried(sample, size, classes))
            trials += tried
    choice = choose(trials, demands, clock.left)
    return next(one for one in backbones if one.name == choice.best.backbone), choice


class _Extractor:
    """Extracts features by a frozen backbone, on the devices of the run."""

    def __init__(self, info: BackboneInfo, machine: Machine, recipe: Recipe) -> None:
        alone = Cluster()
        deterministic = info.opaque is None or not info.opaque.draws_random_numbers
        self.info = info
        self.workers = Workers(
            runtime.start(machine, alone, deterministic=deterministic, memory_limit=recipe.memory_limit), alone
        )
        with self.workers.strategy.scope():
            self.classifier = load_classifier(info, 1, folded=True)

    def tried(self, sample: Examples, size: int, classes: int) -> Trial:
        """Extract the sample's features at `size` px; the first micro-batch, which compiles, is not timed."""
        extract = Pass(self.classifier.features, self.info.features, size, SMALLEST_BATCH, self.workers)
        extract(sample.take(np.arange(min(len(sample), SMALLEST_BATCH))))
        start = time.perf_counter()
        features = extract(sample)
        seconds = (time.perf_counter() - start) / len(sample)
        accuracy = left_out_accuracy(features, sample.labels, classes)
        return Trial(backbone=self.info.name, size=size, seconds=seconds, examples=len(sample), accuracy=accuracy)


class Measurable(Protocol):
    """A job whose steps and evaluation can be timed: `cut` returns micro-batches, `outputs` evaluates examples."""

    step: TrainingStep
    workers: Workers
    clock: Clock

    @property
    def plan(self) -> TrainingPlan: ...
    @property
    def testing(self) -> Examples: ...
    @property
    def evaluated_at_the_end(self) -> int: ...
    def cut(self, first: int, micro_batch: int) -> tuple[int, Iterator[MicroBatch]]: ...
    def outputs(self, examples: Examples) -> object: ...


def estimated_calibration(plan: Plan, evaluated: int, clock: Clock) -> Calibration | None:
    """Return what the trials tell of the time of a step and of the evaluation, if that leaves no time for training.

    Compiling the training step only to find that out would take some of the time.
    """
    assert plan.choice is not None
    image = plan.choice.best.seconds
    calibration = Calibration(
        elapsed=round(clock.elapsed, 2),
        step=round(TRAINING_COST * image * plan.batch.value, 4),
        evaluation=round(SAFETY * image * evaluated, 2),
    )
    return calibration if plan.calibrated(calibration).steps == 0 else None


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
    most = min(CALIBRATION_SECONDS, CALIBRATION_SHARE * job.clock.budget)
    while done < 3 or (seconds < most and done < 64):
        # The pipeline made its first micro-batches while the step compiled: only the last share is typical.
        share = max(1, done)
        latest = _seconds(job.workers, partial(train, share)) - update
        done += share
        seconds += latest
        micro_seconds = latest / share
    evaluation = _evaluation_seconds(job)
    job.step.restore(before)
    return Calibration(
        elapsed=round(float(job.workers.broadcast(job.clock.elapsed)), 2),
        step=round(SAFETY * (max(micro_seconds, 1e-4) * per_step + update), 4),
        evaluation=round(SAFETY * evaluation, 2),
    )


def affordable_features(
    clock: Clock, micro_batch: int, training: Examples, features: Callable[[Examples], object], workers: Workers
) -> int:
    """Return how many images' features fit into half of the time that is left; at least two micro-batches."""
    sample = training.take(np.arange(min(len(training), micro_batch)))
    features(sample)  # compiles
    rate: float = len(sample) / _seconds(workers, partial(features, sample))
    return max(2 * micro_batch, int(FEATURES_SHARE * (clock.left - FINISHING) * rate))


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
