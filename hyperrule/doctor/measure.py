"""Times a small but real training step on this device, in each precision, with XLA and without."""

import math
import re
import statistics
import time
from datetime import date
from itertools import product
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.data.pipeline import MicroBatch
from hyperrule.errors import RunError
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.machine.speed import Rate, Speed, software
from hyperrule.planning.planner import worthwhile_precisions
from hyperrule.planning.training_plan import Precision
from hyperrule.support.progress import Reporter
from hyperrule.training import runtime
from hyperrule.training.classifier import POLICIES, Classifier
from hyperrule.training.step import TrainingStep

ARCHITECTURE = Architecture(26, 0.5)
SIDE = 128  # pixels
CPU_BATCH, GPU_BATCH = 64, 256
CLASSES = 10
TURNS = 5
TURN_SECONDS = 1.0  # a turn repeats the step for this long, at least once


class Setting(NamedTuple):
    precision: Precision
    xla: bool

    def __str__(self) -> str:
        return f"{self.precision}{' with XLA' if self.xla else ''}"


BASE = Setting("float32", xla=False)


def measure_speed(machine: Machine, reporter: Reporter) -> Speed:
    """Time the step in every setting, on the CPU or the machine's weakest GPU; rates are medians of TURNS turns.

    Raises RunError if not even float32 without XLA runs, UserError if TensorFlow does not see the GPU.
    """
    if machine.gpus:
        machine = machine.model_copy(update={"gpus": (machine.weakest_gpu,)})
    strategy = runtime.start(machine, Cluster(), deterministic=False)
    batch = GPU_BATCH if machine.gpus else CPU_BATCH
    images = _random_images(batch)
    settings = [Setting(*both) for both in product(worthwhile_precisions(machine), (False, True))]
    steps: dict[Setting, TrainingStep] = {}
    failures: dict[Setting, str] = {}
    with reporter.stage("Compiling", len(settings)) as report:
        for done, setting in enumerate(settings, 1):
            try:
                steps[setting] = _compiled(setting, strategy, images)
            except tf.errors.OpError as error:
                failures[setting] = _first_line(error.message)
            report(done, str(setting))
    if BASE in failures:
        raise RunError(f"a training step does not run on {machine.device}: {failures[BASE]}")
    seconds = _alternating(steps, images, reporter)
    return Speed(
        day=date.today(),
        device=machine.device,
        versions=software(),
        what=f"training step of {ARCHITECTURE}, {SIDE} px, batch {batch}",
        rates=tuple(
            Rate(
                precision=setting.precision,
                xla=setting.xla,
                images_per_second=batch / seconds[setting] if setting in seconds else None,
                failure=failures.get(setting),
            )
            for setting in settings
        ),
    )


def _compiled(setting: Setting, strategy: tf.distribute.Strategy, images: MicroBatch) -> TrainingStep:
    """Build the step of a setting, and run it once so that it is compiled."""
    with strategy.scope():
        classifier = Classifier(ResNetV2(ARCHITECTURE, POLICIES[setting.precision]), CLASSES)
        step = TrainingStep(classifier, strategy, len(images.weights), xla=setting.xla)
    _seconds(step, images)
    return step


def _alternating(steps: dict[Setting, TrainingStep], images: MicroBatch, reporter: Reporter) -> dict[Setting, float]:
    """Return the median seconds of one step of each setting.

    The settings take turns, so that what disturbs the machine affects all alike.
    """
    counts = {setting: math.ceil(TURN_SECONDS / _seconds(step, images)) for setting, step in steps.items()}
    turns: dict[Setting, list[float]] = {setting: [] for setting in steps}
    with reporter.stage("Measuring", TURNS) as report:
        for turn in range(TURNS):
            for setting, step in steps.items():
                turns[setting].append(_seconds(step, images, counts[setting]))
            report(turn + 1, "rounds")
    return {setting: statistics.median(seconds) for setting, seconds in turns.items()}


def _seconds(step: TrainingStep, images: MicroBatch, count: int = 1) -> float:
    """Return the mean seconds of a step, over `count` in a row; a step ends when its loss is on the host."""
    start = time.perf_counter()
    for _ in range(count):
        step.run([images], learning_rate=0.001)
    return (time.perf_counter() - start) / count


def _random_images(batch: int) -> MicroBatch:
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 1, (batch, SIDE, SIDE, 3)), tf.float32)
    targets = tf.constant(np.eye(CLASSES)[np.arange(batch) % CLASSES], tf.float32)
    return MicroBatch(images, targets, tf.ones(batch))


def _first_line(message: str) -> str:
    """Return the first line of an error, without the name of the graph's node.

    >>> _first_line("{{function_node __inference_1}} no memory\\n at ...")
    'no memory'
    """
    return re.sub(r"{{.*?}} *", "", message).strip().splitlines()[0][:200]
