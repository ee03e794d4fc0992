"""The rule against the public code, written out as an independent table."""

import pytest

from hyperrule.rule import learning_rate, schedule


def public_learning_rate(step: int, examples: int) -> float:
    """google-research/big_transfer, bit_hyperrule.py, as a piecewise table: (first step, rate)."""
    if examples < 20_000:
        warmup, pieces = 100, [(401, 3e-6), (301, 3e-5), (201, 3e-4), (100, 3e-3)]
    elif examples < 500_000:
        warmup, pieces = 500, [(9001, 3e-6), (6001, 3e-5), (3001, 3e-4), (500, 3e-3)]
    else:
        warmup, pieces = 500, [(18_001, 3e-6), (12_001, 3e-5), (6001, 3e-4), (500, 3e-3)]
    if step < warmup:
        return 0.003 * step / warmup
    return next(rate for first, rate in pieces if step >= first)


@pytest.mark.parametrize(
    ("examples", "steps"), [(1, 500), (19_999, 500), (20_000, 10_000), (499_999, 10_000), (500_000, 20_000)]
)
def test_learning_rate_of_every_step_is_the_public_codes(examples: int, steps: int) -> None:
    chosen = schedule(examples)
    assert chosen.steps == steps
    for step in range(steps):
        assert learning_rate(step, chosen) == pytest.approx(public_learning_rate(step, examples), rel=1e-12, abs=0)


def test_stretching_scales_every_boundary() -> None:
    stretched = schedule(1).stretched(2000)
    assert (stretched.warmup, stretched.boundaries) == (400, (800, 1200, 1600))
    assert stretched.stretched(500) == schedule(1)


def test_stretching_to_one_step_trains_at_the_full_rate() -> None:
    assert learning_rate(0, schedule(1).stretched(1)) == 0.003
