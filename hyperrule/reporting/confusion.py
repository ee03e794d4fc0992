"""What is taken for what: the confusion matrix as a figure, and its largest entries off the diagonal."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.colors import to_rgb

from hyperrule.evaluation.metrics import Metrics
from hyperrule.pages.rendering import percent
from hyperrule.reporting.drawing import INK, Drawing
from hyperrule.support.wording import printable

NAMED = 30  # classes by name; of more, axes have their numbers
COUNTED = 15  # classes with a count in each cell
LONGEST_NAME = 14  # characters of a name on an axis
PAIRS = 15
RIGHT, WRONG = to_rgb("#4a80ba"), to_rgb("#d0582f")  # by their opacity they do on light and on dark
WEAKEST, STRONGEST = 0.1, 0.8  # opacity, so that ink can be read on it
WEAKEST_DOT = 0.4  # where cells are too small for counts


@dataclass(frozen=True)
class Pair:
    """`examples` of class `label`, which is this `share` of it, were taken for `predicted`."""

    label: str
    predicted: str
    examples: int
    share: float


def most_confused(metrics: Metrics) -> list[Pair]:
    """At most 15, the largest first."""
    counts = np.array(metrics.confusion)
    of_class = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    names = [known.name for known in metrics.per_class]
    largest = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    return [
        Pair(names[row], names[column], int(counts[row, column]), float(counts[row, column] / of_class[row]))
        for row, column in zip(*np.unravel_index(largest, counts.shape), strict=True)
        if counts[row, column]
    ]


def confusion_figure(metrics: Metrics) -> Markup:
    """Rows are labels, columns predictions; colour is the share of the row, blue where it is right."""
    counts = np.array(metrics.confusion)
    classes = len(counts)
    said = (
        f"Confusion matrix of {classes} classes: {percent(metrics.top1)} of {metrics.examples} images on the diagonal"
    )
    side = min(480, 150 + 32 * classes)
    drawing = Drawing("confusion", said, side, side)
    with drawing as axes:
        axes.imshow(_colours(counts), interpolation="none")
        if classes <= COUNTED:
            for row, column in zip(*np.nonzero(counts), strict=True):
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=INK, fontsize=11)
        places = np.arange(classes)
        if classes <= NAMED:
            names = [shortened(known.name) for known in metrics.per_class]
            size = 11 if classes <= COUNTED else 9
            axes.set_xticks(places, names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=size)
            axes.set_yticks(places, names, fontsize=size)
        axes.set(xlabel="predicted" if classes <= NAMED else "predicted, by number of the class", ylabel="label")
        axes.spines[:].set_visible(True)
        axes.tick_params(length=0)
        axes.grid(False)
    return drawing.svg


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """
    >>> shortened("a very long name of a class")
    'a very long n…'
    """
    text = printable(name)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _colours(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """RGBA [classes, classes, 4]."""
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    weakest = WEAKEST if len(counts) <= COUNTED else WEAKEST_DOT
    colours = np.zeros((*counts.shape, 4))
    colours[..., :3] = np.where(np.eye(len(counts), dtype=bool)[..., np.newaxis], RIGHT, WRONG)
    colours[..., 3] = np.where(counts > 0, weakest + (STRONGEST - weakest) * share, 0)
    return colours
