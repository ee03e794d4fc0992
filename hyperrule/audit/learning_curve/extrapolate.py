"""From accuracies of subsets to what twice and four times the labels should bring, or why that cannot be told.

accuracy = a - b n^-c: how accuracy grows with n labels.

Source of the form: Hestness et al. 2017, arXiv 1712.00409, of the error, with what remains of it for ever.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hyperrule.audit.learning_curve.measure import SEEDS, SubsetAccuracies

Values = npt.NDArray[np.float64]

EXPONENTS = np.geomspace(0.05, 2.0, 200)  # candidates for c


def power_law(n: Values, a: Values | float, b: Values | float, c: Values | float) -> Values:
    """`n` in units of the largest that was measured, so that a - b is the accuracy there."""
    grown: Values = a - b * n**-c
    return grown


def fit(n: Values, accuracy: Values, sigma: Values) -> Values:
    """a, b and c [3, ...] of least squares through accuracies [..., P], weighted by standard errors [P]; a is at most
    1 and b at least 0. Given c, the law is a straight line in n^-c, so each candidate is solved in closed form."""
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


TIMES = (2, 4)
# Of the logarithm of the gain that came over the gain foretold, as assumed. Measured were 0.52 for four times the
# labels and 1.02 for twice, where small gains drown in the noise of one subset (docs/insight.md).
FORM_ERROR = 0.5
FITTED = 4  # sizes that the curve goes through, the largest: smaller ones follow another law
SHAPE_ERROR = 0.005  # of accuracy, beside the error of the mean of the subsets
POOR = 0.02  # of accuracy: root mean square of the residuals that is no fit
WORTH = 0.01  # of accuracy: less gain is hardly worth collecting labels for
MISTAKES = 5  # test images wrong; with fewer no gain could be seen
DRAWS = 200  # of the bootstrap
LEVEL = 0.95

Verdict = Literal["more labels help", "hardly", "unclear", "saturated", "flat", "poor fit", "too few labels"]


class PowerLaw(BaseModel):
    """accuracy = a - b (labels / all labels)^-c."""

    model_config = ConfigDict(frozen=True)

    a: float
    b: float
    c: float


class Expected(BaseModel):
    """Accuracy with `times` the labels, and what it gains; `low` and `high` are 95 % intervals. `likely`, from 0 to 1,
    is how likely it gains more than WORTH."""

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
    """What the curve of a quarter of the labels foretells for all of them, and what was measured."""

    model_config = ConfigDict(frozen=True)

    labels: int
    foretold: float
    measured: float


@dataclass(frozen=True)
class Outlook:
    """`law` is None, and nothing expected, where the verdict is that nothing can be foretold."""

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
    """a, b and c of `PowerLaw`, through the FITTED largest sizes of at least as many."""
    n = measured.labels / measured.labels[-1]
    return _fitted(n, measured.top1.mean(axis=1), _standard_errors(measured))


def _fitted(n: Values, top1: Values, sigma: Values) -> Values:
    return fit(n[-FITTED:], top1[..., -FITTED:], sigma[-FITTED:])


def _standard_errors(measured: SubsetAccuracies) -> Values:
    errors: Values = np.sqrt(measured.top1.var(axis=1, ddof=1) / SEEDS + SHAPE_ERROR**2)
    return errors


def _bootstrap(measured: SubsetAccuracies) -> Values:
    """Accuracies [DRAWS, P] of redrawn test images and redrawn seeds, each the same for all sizes."""
    rng = np.random.default_rng(0)
    sizes, seeds, examples = measured.correct.shape
    images = rng.multinomial(examples, np.full(examples, 1 / examples), DRAWS) / examples
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    by_seed = (measured.correct.reshape(-1, examples) @ images.T).reshape(sizes, seeds, DRAWS)
    accuracies: Values = np.einsum("psd,ds->dp", by_seed, chosen)
    return accuracies


def _expected(times: int, measured: SubsetAccuracies, drawn_now: Values, law: Values, drawn: Values) -> Expected:
    """Errors of the measurement, redrawn; of the form of the curve, by which a gain is too small or too large; and of
    these labels, which are better or worse than others would be."""
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
    """Standard deviation of the accuracy with all labels over draws of them from `times` as many.

    Where the variance over draws from everything is v / n of n labels, that over halves of n is v / n, too, and that
    over draws of n from times as many (1 - 1 / times) of it.
    """
    return float(measured.top1[-2].std(ddof=1) * np.sqrt(1 - 1 / times))


def _verdict(most: Expected) -> Verdict:
    """By what four times the labels gain."""
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
