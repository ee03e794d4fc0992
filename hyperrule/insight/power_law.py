"""accuracy = a - b n^-c: how accuracy grows with n labels, and how far that can be believed.

Source of the form: Hestness et al. 2017, arXiv 1712.00409, of the error, with what remains of it for ever.
"""

import warnings

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeWarning, curve_fit

Values = npt.NDArray[np.float64]

LOWER, UPPER = (0.0, 0.0, 0.05), (1.0, 10.0, 2.0)  # of a, b, c


def power_law(n: Values, a: float, b: float, c: float) -> Values:
    """`n` in units of the largest that was measured, so that a - b is the accuracy there."""
    grown: Values = a - b * n**-c
    return grown


def fit(n: Values, accuracy: Values, sigma: Values) -> Values:
    """a, b and c of least squares, weighted by standard errors; all [P]. n as for `power_law`."""
    start = (min(1.0, accuracy[-1] + 0.1), 0.1, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which nobody reads
        found: Values = curve_fit(power_law, n, accuracy, start, sigma, bounds=(LOWER, UPPER), maxfev=2_000)[0]
    return found
