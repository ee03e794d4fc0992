"""accuracy = a - b n^-c: how accuracy grows with n labels.

Source of the form: Hestness et al. 2017, arXiv 1712.00409, of the error, with what remains of it for ever.
"""

import numpy as np
import numpy.typing as npt

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
