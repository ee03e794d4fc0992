"""Extrapolate accuracies of subsets to twice and four times the labels, or explain why that is impossible.

The curve is accuracy = a - b n^-c for n labels. Hestness et al. 2017, arXiv 1712.00409, found this form for the error,
with an irreducible part.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hyperrule.audit.learning_curve.measure import SEEDS, SubsetAccuracies

Verdict = Literal["more labels help", "hardly", "unclear", "saturated", "flat", "poor fit", "too few labels"]
Values = npt.NDArray[np.float64]

EXPONENTS = np.geomspace(0.05, 2.0, 200)  # candidates for c
TIMES = (2, 4)
# Assumed standard deviation of log(actual gain / predicted gain). Measured: 0.52 for four times the labels, 1.02 for
# twice, where the noise of one subset exceeds small gains (docs/insight.md).
FORM_ERROR = 0.5
FITTED = 4  # the curve is fitted to so many largest sizes: smaller ones follow another law
SHAPE_ERROR = 0.005  # of accuracy, added to the standard error over subsets
POOR = 0.02  # of accuracy: root mean square of residuals above which the fit is rejected
WORTH = 0.01  # of accuracy: a smaller gain is hardly worth collecting labels
MISTAKES = 5  # misclassified test images; with fewer, no gain can be measured
DRAWS = 200  # bootstrap samples
LEVEL = 0.95


def power_law(n: Values, a: Values | float, b: Values | float, c: Values | float) -> Values:
    """Return a - b n^-c; `n` is relative to the largest measured size, where the accuracy is a - b."""
    grown: Values = a - b * n**-c
    return grown


def fit(n: Values, accuracy: Values, sigma: Values) -> Values:
    """Fit a, b and c (float64 [3, ...]) to accuracies [..., P] at relative sizes `n` [P] by least squares, weighted by
    their standard errors `sigma` [P]; a is at most 1, b at least 0. Given c, the law is linear in n^-c, so each
    candidate is solved in closed form."""
    weight = 1 / sigma**2
    y = accuracy[..., np.newaxis, :]
    u = n ** -EXPONENTS[:, np.newaxis]
    mean_u, mean_y = np.average(u, axis=-1, weights=weight), np.average(y, axis=-1, weights=weight)
    centred = u - mean_u[:, np.newaxis]
    b = np.maximum(0, -(weight * centred * y).sum(axis=-1) / (weight * centred**2).sum(axis=-1))
    a = mean_y + b * mean_u
    b = np.where(a > 1, (weight * u * (1 - y)).sum(axis=-1) / (weight * u**2).sum(axis=-1), b)
    a = np.minimum(a, 1)
    loss = (weight * (a[..., np.newaxis] - b[..., np.newaxis] * u - y) ** 2).sum(axis=-1)
    best = loss.argmin(axis=-1)[..., np.newaxis]
    found: Values = np.stack(
        [np.take_along_axis(each, best, -1)[..., 0] for each in (a, b)] + [EXPONENTS[best[..., 0]]]
    )
    return found


class PowerLaw(BaseModel):
    """accuracy = a - b (labels / all labels)^-c."""

    model_config = ConfigDict(frozen=True)

    a: float
    b: float
    c: float


class Expected(BaseModel):
    """Expected accuracy and gain with `times` the labels; `low` and `high` bound 95 % intervals. `likely` is the
    probability, 0 to 1, of a gain above WORTH."""

    model_config = ConfigDict(frozen=True)

    times: int
    labels: int
    top1: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    likely: float


class BackTest(BaseModel):
    """The accuracy with all labels: predicted from a quarter of them, and measured."""

    model_config = ConfigDict(frozen=True)

    labels: int
    foretold: float
    measured: float


@dataclass(frozen=True)
class Outlook:
    """The extrapolation. If the verdict is that none is possible, `law` is None and `expected` empty."""

    verdict: Verdict
    law: PowerLaw | None = None
    expected: tuple[Expected, ...] = ()
    back_test: BackTest | None = None


def look_ahead(measured: SubsetAccuracies) -> Outlook:
    if len(measured.labels) < FITTED:
        return Outlook("too few labels")
    top1 = measured.top1.mean(axis=1)
    draws = _bootstrap(measured)
    if (1 - top1[-1]) * measured.correct.shape[2] < MISTAKES:
        return Outlook("saturated")
    if np.quantile(draws[:, -1] - draws[:, -FITTED], 1 - LEVEL) <= 0:
        return Outlook("flat")
    n, sigma = measured.labels / measured.labels[-1], _standard_errors(measured)
    law = law_of(measured)
    residuals = power_law(n[-FITTED:], *law) - top1[-FITTED:]
    if np.sqrt(np.mean(residuals**2)) > POOR:
        return Outlook("poor fit")
    drawn = _fitted(n, draws, sigma)
    expected = tuple(_expected(times, measured, draws[:, -1], law, drawn) for times in TIMES)
    return Outlook(_verdict(expected[-1]), PowerLaw(a=law[0], b=law[1], c=law[2]), expected, _back_test(measured))


def law_of(measured: SubsetAccuracies) -> Values:
    """Fit a, b and c of `PowerLaw` to the FITTED largest sizes; there must be at least that many."""
    n = measured.labels / measured.labels[-1]
    return _fitted(n, measured.top1.mean(axis=1), _standard_errors(measured))


def _fitted(n: Values, top1: Values, sigma: Values) -> Values:
    return fit(n[-FITTED:], top1[..., -FITTED:], sigma[-FITTED:])


def _standard_errors(measured: SubsetAccuracies) -> Values:
    errors: Values = np.sqrt(measured.top1.var(axis=1, ddof=1) / SEEDS + SHAPE_ERROR**2)
    return errors


def _bootstrap(measured: SubsetAccuracies) -> Values:
    """Return accuracies [DRAWS, P] with test images and seeds resampled, identically for all sizes."""
    rng = np.random.default_rng(0)
    sizes, seeds, examples = measured.correct.shape
    images = rng.multinomial(examples, np.full(examples, 1 / examples), DRAWS) / examples
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    by_seed = (measured.correct.reshape(-1, examples) @ images.T).reshape(sizes, seeds, DRAWS)
    accuracies: Values = np.einsum("psd,ds->dp", by_seed, chosen)
    return accuracies


def _expected(times: int, measured: SubsetAccuracies, drawn_now: Values, law: Values, drawn: Values) -> Expected:
    """Combine three errors: of the measurement, by bootstrap; of the curve's form, as a random factor on the gain; and
    of the choice of these labels among others, as random luck."""
    labels, now = int(measured.labels[-1]), float(measured.top1[-1].mean())
    top1 = float(np.clip(power_law(np.array(times), *law), now, 1))
    rng = np.random.default_rng(times)
    factors = np.exp(rng.normal(0, FORM_ERROR, DRAWS))
    luck = rng.normal(0, _spread_within(measured, times), DRAWS)
    gains = np.minimum(factors * (power_law(np.array(times), *drawn) - drawn_now) + luck, 1 - drawn_now)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    (low, high), (gain_low, gain_high) = np.quantile(drawn_now + gains, tails), np.quantile(gains, tails)
    return Expected(
        times=times,
        labels=times * labels,
        top1=top1,
        low=min(low, top1),
        high=max(high, top1),
        gain=top1 - now,
        gain_low=gain_low,
        gain_high=gain_high,
        likely=float(np.mean(gains > WORTH)),
    )


def _spread_within(measured: SubsetAccuracies, times: int) -> float:
    """Return the standard deviation of the accuracy with n labels sampled from `times` n labels; n is all there are.

    If the variance over samples of n labels from an infinite population is v / n, so is that over halves of n; over
    samples of n from `times` n it is (1 - 1 / times) v / n.
    """
    return float(measured.top1[-2].std(ddof=1) * np.sqrt(1 - 1 / times))


def _verdict(most: Expected) -> Verdict:
    """Judge by the gain with four times the labels."""
    if most.likely >= LEVEL:
        return "more labels help"
    return "hardly" if most.gain_high < 2 * WORTH else "unclear"


def _back_test(measured: SubsetAccuracies) -> BackTest | None:
    known = len(measured.labels) - 2
    if known < FITTED:
        return None
    law = law_of(SubsetAccuracies(measured.labels[:known], measured.correct[:known]))
    return BackTest(
        labels=int(measured.labels[known - 1]),
        foretold=float(power_law(measured.labels[-1] / measured.labels[known - 1], *law)),
        measured=float(measured.correct[-1].mean()),
    )
