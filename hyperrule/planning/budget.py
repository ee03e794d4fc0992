"""Chooses what a fine-tuning does within a time budget: its backbone, the size of its images, and its batches.

The choice follows measurements on training images only: the seconds that an image takes, and the accuracy of a linear
probe on images that it was not fitted on. Before anything is measured, estimates take their place.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.info import BackboneInfo
from hyperrule.planning.cost import estimate_inference
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.training_plan import FINISHING
from hyperrule.rule import BATCH

SIZES = (64, 96, 128, 160, 192, 224, 288, 352, 416, 480)  # pixels; the rule's crops are 128, 384 and 480
SMALLEST_BATCH = 32
LEAST_STEPS = 150  # a larger batch is worth it only if it leaves so many
TRAINING_COST = 4.0  # of a training step in forward passes, decoding and augmentation included; 3.1 to 4.4 measured
FEATURES_SHARE = 0.5  # of the time that is left, for features of all images: the rest is for training
FIRST_SIZE, LARGER = 128, 1.15  # pixels; a size is larger if it is by this factor
STARTING = 6.0  # seconds until TensorFlow is imported and a network is compiled, before anything is measured
ESTIMATED_RATE = 100.0  # images a second at 224 px, on a GPU or wherever there is no estimate


class Trial(BaseModel):
    """A backbone that was tried on training images of `size` x `size` pixels.

    `accuracy` is that of a linear probe on `examples` images, each left out when it was judged; None for an estimate.
    `seconds` is the time that one image takes, decoding included.
    """

    model_config = ConfigDict(frozen=True)

    backbone: str
    size: int
    seconds: float
    examples: int = 0
    accuracy: float | None = None

    def __str__(self) -> str:
        right = "" if self.accuracy is None else f"{self.accuracy:.1%} right at "
        return f"{right}{self.size} px ({1 / self.seconds:.0f} images/s)"


class Choice(BaseModel):
    """What a budget is used for. `trials` are all that were made, `best` is the one that was chosen.

    `whole_rule` says that the budget suffices for the rule itself; resolution, batch and head are then the rule's.
    """

    model_config = ConfigDict(frozen=True)

    trials: tuple[Trial, ...]
    best: Trial
    batch: int
    whole_rule: bool

    @property
    def measured(self) -> bool:
        return self.best.accuracy is not None

    @property
    def basis(self) -> str:
        """How the sizes of the chosen backbone compare."""
        if not self.measured:
            return f"estimated: {self.best}; finetune measures it"
        tried = [str(trial) for trial in self.trials if trial.backbone == self.best.backbone]
        return f"a probe of {self.best.examples} training images: {', '.join(tried)}"

    @property
    def others(self) -> str:
        """How other backbones did, each at its best size; empty if none was tried."""
        ranked = sorted(self.trials, key=lambda trial: trial.accuracy or 0.0)
        best = {trial.backbone: trial for trial in ranked if trial.backbone != self.best.backbone}
        return ", ".join(f"{name} {trial}" for name, trial in best.items())


class Demand(BaseModel):
    """What a budgeted run has to do: images to learn from and to evaluate, and the rule's way to do it.

    `crop` is the rule's or the requested crop, `images` the number of images in its whole schedule.
    """

    model_config = ConfigDict(frozen=True)

    training: int
    evaluated: int
    crop: int
    images: int
    asked_crop: bool = False
    only_size: int | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes to choose from, smallest first."""
        if self.only_size is not None:
            return (self.only_size,)
        if self.asked_crop:
            return (self.crop,)
        return (*takewhile(lambda size: size < self.crop, SIZES), self.crop)


@dataclass(frozen=True)
class Clock:
    """The time of a run: it `started` at that value of time.monotonic(), and has `budget` seconds, perhaps infinite.

    `first` are the seconds that had passed when this process began to measure.
    """

    started: float
    budget: float = math.inf
    first: float = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def since_start(self) -> float:
        """Seconds since this process began to measure."""
        return self.elapsed - self.first

    @property
    def left(self) -> float:
        return self.budget - self.elapsed


def choose(trials: Sequence[Trial], demands: Mapping[str, Demand], left: float) -> Choice:
    """Choose among trials, with `left` seconds until the end; `demands` are by backbone.

    The most accurate trial wins whose features of all images take at most half of the time; of equals, the fastest.
    """
    left -= FINISHING
    possible = [trial for trial in trials if features_seconds(trial, demands[trial.backbone]) <= FEATURES_SHARE * left]
    best = max(
        possible or [min(trials, key=lambda trial: trial.seconds)],
        key=lambda trial: (trial.accuracy or 0.0, -trial.seconds),
    )
    demand = demands[best.backbone]
    at_rule = seconds_at([trial for trial in trials if trial.backbone == best.backbone], demand.crop)
    whole = demand.images * TRAINING_COST * at_rule + demand.evaluated * at_rule
    passes = max(0.0, left - features_seconds(best, demand)) / (TRAINING_COST * best.seconds)
    batch = SMALLEST_BATCH
    while batch < BATCH and passes / (2 * batch) >= LEAST_STEPS:
        batch *= 2
    return Choice(trials=tuple(trials), best=best, batch=batch, whole_rule=whole <= left)


def seconds_at(trials: Sequence[Trial], size: int) -> float:
    """Estimate the seconds of an image of `size` px from trials of one backbone.

    A line in the number of pixels goes through the two largest sizes: its constant part is mostly decoding. With a
    single trial, time is in proportion to pixels, which is an upper bound for larger sizes.
    """
    *smaller, last = sorted(trials, key=lambda trial: trial.size)
    if not smaller or last.size == size:
        return last.seconds * (size / last.size) ** 2
    slope = max(0.0, (last.seconds - smaller[-1].seconds) / (last.size**2 - smaller[-1].size ** 2))
    return max(last.seconds + slope * (size**2 - last.size**2), 0.1 * last.seconds)


def features_seconds(trial: Trial, demand: Demand) -> float:
    """Estimate the seconds for the features of all training images, and the evaluation."""
    return trial.seconds * (demand.training + demand.evaluated)


def next_size(trials: Sequence[Trial], demand: Demand, left: float) -> int | None:
    """Return the size to try after these trials of one backbone; None if no other is worth it.

    First a middle one; then the largest whose features fit in the time, as long as that is much larger; then smaller
    ones, as long as the smallest is the best.
    """
    sizes = demand.sizes
    if not trials:
        return max((size for size in sizes if size <= FIRST_SIZE), default=sizes[0])
    left = FEATURES_SHARE * (left - FINISHING)
    images = demand.training + demand.evaluated
    tried = [trial.size for trial in trials]
    fitting = [size for size in sizes if images * seconds_at(trials, size) <= left]
    if fitting and fitting[-1] >= LARGER * max(tried):
        return fitting[-1]
    smaller = [size for size in sizes if size < min(tried)]
    best = max(trials, key=lambda trial: (trial.accuracy or 0.0, -trial.size))
    too_slow = features_seconds(min(trials, key=lambda trial: trial.size), demand) > left
    if smaller and (too_slow or (best.size == min(tried) and trials[0].accuracy is not None)):
        return smaller[-1]
    return None


def estimated(
    backbones: Sequence[BackboneInfo], demands: Mapping[str, Demand], machine: Machine, budget: float
) -> Choice:
    """Choose by estimates, before anything is measured: the first backbone, at the largest size that fits."""
    first, left = backbones[0], budget - STARTING
    demand = demands[first.name]

    def trial(size: int) -> Trial:
        known = estimate_inference(first, size, 1, machine)
        seconds = known if known is not None else (size / 224) ** 2 / ESTIMATED_RATE
        return Trial(backbone=first.name, size=size, seconds=seconds)

    trials: list[Trial] = []
    while (size := next_size(trials, demand, left)) is not None:
        trials = [trial(size)]
    return choose(trials, demands, left)
