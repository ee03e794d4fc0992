"""The BiT-HyperRule: number and size of the images decide resolution, schedule and mixup.

Sources: P = arXiv 1912.11370v3, section 3.3 and supplement F; C = google-research/big_transfer,
`bit_hyperrule.py` and `bit_tf2/train.py`. Where they differ, `rule="code"` follows C and
`rule="paper"` follows P.

>>> resolution(32, 32), resolution(95, 96), resolution(96, 96)
(Resolution(resize=160, crop=128), Resolution(resize=160, crop=128), Resolution(resize=512, crop=480))
>>> schedule(19_999)
Schedule(steps=500, warmup=100, boundaries=(200, 300, 400))
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Rule = Literal["code", "paper"]
Regime = Literal["small", "medium", "large"]

BATCH = 512  # P supp. F, C
BASE_LEARNING_RATE = 0.003  # P supp. F, C
MOMENTUM = 0.9  # P supp. F, C
LIGHT_BATCH = 128  # C, README: the setting for one GPU, steps unchanged
LIGHT_BASE_LEARNING_RATE = 0.001  # C, README
DECAY = 10  # the rate is divided by this at each boundary; P section 3.3, C


@dataclass(frozen=True)
class Resolution:
    """Images are resized to resize x resize pixels, then cropped to crop x crop."""

    resize: int
    crop: int


@dataclass(frozen=True)
class Schedule:
    """Number of updates: the rate rises linearly over the first `warmup` and falls after each boundary."""

    steps: int
    warmup: int
    boundaries: tuple[int, ...]

    def __str__(self) -> str:
        boundaries = ", ".join(map(str, self.boundaries))
        return f"{self.steps} steps: warm-up {self.warmup}, decay after {boundaries}"

    def stretched(self, steps: int) -> "Schedule":
        """Return the schedule scaled to `steps` (at least 0): warm-up and every boundary in proportion.

        >>> schedule(100).stretched(2_000)
        Schedule(steps=2000, warmup=400, boundaries=(800, 1200, 1600))
        >>> schedule(100).stretched(7)
        Schedule(steps=7, warmup=1, boundaries=(3, 4, 6))
        """
        return self.shortened(0, steps)

    def shortened(self, done: int, steps: int) -> "Schedule":
        """Return the schedule with what comes after `done` steps scaled so that it ends after `steps` steps.

        >>> Schedule(500, 100, (200, 300, 400)).shortened(300, 400)
        Schedule(steps=400, warmup=100, boundaries=(200, 300, 350))
        """
        if not 0 <= done <= steps:
            raise ValueError(f"steps must be at least {done}. Received: {steps}")

        def scaled(boundary: int) -> int:
            if boundary <= done:
                return boundary
            return done + round(Fraction((boundary - done) * (steps - done), self.steps - done))

        return Schedule(steps, scaled(self.warmup), tuple(map(scaled, self.boundaries)))


def regime(examples: int) -> Regime:
    """Return the size class of a training set: below 20,000, below 500,000, or larger (P section 3.3, C).

    >>> regime(1), regime(19_999), regime(20_000), regime(499_999), regime(500_000)
    ('small', 'small', 'medium', 'medium', 'large')
    """
    if examples < 20_000:
        return "small"
    return "medium" if examples < 500_000 else "large"


def is_small(height: int, width: int) -> bool:
    """Return whether an image of height x width pixels is small: an area below 96 x 96 pixels (P, C).

    >>> is_small(95, 96), is_small(96, 96)
    (True, False)
    """
    return height * width < 96 * 96


def resolution(height: int, width: int, rule: Rule = "code", architecture: str = "") -> Resolution:
    """Return the training resolution for images of height x width pixels.

    >>> resolution(96, 95), resolution(1, 9_216)
    (Resolution(resize=160, crop=128), Resolution(resize=512, crop=480))
    >>> resolution(300, 400, "paper"), resolution(300, 400, "paper", "R152x4")
    (Resolution(resize=448, crop=384), Resolution(resize=512, crop=480))
    """
    if is_small(height, width):
        return Resolution(160, 128)
    if rule == "paper" and architecture != "R152x4":
        return Resolution(448, 384)
    return Resolution(512, 480)


def schedule(examples: int, rule: Rule = "code") -> Schedule:
    """Return the schedule for a training set of `examples` images.

    >>> schedule(20_000)
    Schedule(steps=10000, warmup=500, boundaries=(3000, 6000, 9000))
    >>> schedule(499_999) == schedule(20_000)
    True
    >>> schedule(500_000)
    Schedule(steps=20000, warmup=500, boundaries=(6000, 12000, 18000))
    >>> schedule(1, "paper")
    Schedule(steps=500, warmup=0, boundaries=(150, 300, 450))
    >>> schedule(500_000, "paper")
    Schedule(steps=20000, warmup=0, boundaries=(6000, 12000, 18000))
    """
    size = regime(examples)
    steps = {"small": 500, "medium": 10_000, "large": 20_000}[size]
    if rule == "paper":
        return Schedule(steps, 0, (3 * steps // 10, 6 * steps // 10, 9 * steps // 10))
    if size == "small":
        return Schedule(steps, 100, (200, 300, 400))
    return Schedule(steps, 500, (3 * steps // 10, 6 * steps // 10, 9 * steps // 10))


def learning_rate(step: int, schedule: Schedule, base: float = BASE_LEARNING_RATE) -> float:
    """Return the learning rate of update `step` (from 0); it falls on the step after a boundary (C).

    >>> small = schedule(1)
    >>> [learning_rate(step, small) for step in (0, 50, 100, 200)]
    [0.0, 0.0015, 0.003, 0.003]
    >>> [round(learning_rate(step, small), 9) for step in (201, 300, 301, 400, 401, 499)]
    [0.0003, 0.0003, 3e-05, 3e-05, 3e-06, 3e-06]
    >>> learning_rate(0, schedule(1, "paper"))
    0.003
    >>> learning_rate(500, small)
    Traceback (most recent call last):
    ...
    ValueError: step must be in [0, 500). Received: 500
    """
    if not 0 <= step < schedule.steps:
        raise ValueError(f"step must be in [0, {schedule.steps}). Received: {step}")
    if step < schedule.warmup:
        return base * step / schedule.warmup
    rate = base
    for boundary in schedule.boundaries:
        if boundary < step:
            rate /= DECAY
    return rate


def mixup_alpha(examples: int) -> float:
    """Return alpha of mixup, whose lambda follows Beta(alpha, alpha); 0 means no mixup (P section 3.3, C).

    >>> mixup_alpha(19_999), mixup_alpha(20_000), mixup_alpha(500_000)
    (0.0, 0.1, 0.1)
    """
    return 0.0 if regime(examples) == "small" else 0.1
