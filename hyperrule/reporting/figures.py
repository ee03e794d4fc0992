"""Draws the figures of a classifier's evaluation: reliability, accuracy against coverage, confusion matrix.

Also returns the figures for their tables: thresholds for a target accuracy, and the most confused pairs of classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.colors import to_rgb

from hyperrule.data.selection import evenly_spread
from hyperrule.evaluation.calibration import Coverage, Reliability, coverages
from hyperrule.evaluation.intervals import Interval, wilson
from hyperrule.evaluation.metrics import Metrics
from hyperrule.pages.drawing import BLUE, INK, ORANGE, PERCENT, SOFT, Drawing
from hyperrule.pages.rendering import percent
from hyperrule.reporting.finished_run import Prediction
from hyperrule.support.wording import printable

TARGETS = (0.9, 0.95, 0.98, 0.99, 0.995)  # accuracies in the table of thresholds
MOST_POINTS, FEW_POINTS = 300, 5  # points drawn of a curve; up to FEW_POINTS, with markers
NAMED = 30  # classes up to which the axes show names; beyond, numbers
COUNTED = 15  # classes up to which each cell shows its count
LONGEST_NAME = 14  # characters of a name on an axis
PAIRS = 15
RIGHT, WRONG = to_rgb("#4a80ba"), to_rgb("#d0582f")  # visible on light and dark pages because of their opacity
WEAKEST, STRONGEST = 0.1, 0.8  # opacity; text stays legible on it
WEAKEST_DOT = 0.4  # opacity if cells are too small for counts


@dataclass(frozen=True)
class Threshold:
    """The lowest score above which predictions reach the `target` accuracy; `kept` is their number."""

    target: float
    found: Coverage
    kept: int
    interval: Interval


def reliability_figure(when: str, judged: Reliability) -> Markup:
    """Draw accuracy against score, by bins of scores, with 95 % intervals; calibrated scores lie on the diagonal."""
    filled = [one for one in judged.bins if one.examples]
    description = "; ".join(f"score {one.score:.2f}: {percent(one.accuracy)} right" for one in filled)
    drawing = Drawing(f"reliability-{when}", f"Reliability {when} calibration. {description}", 300, 280)
    colour = BLUE if when == "after" else ORANGE
    with drawing as axes:
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        most = max(one.examples for one in filled)
        for one in filled:
            around = wilson(round(one.accuracy * one.examples), one.examples)
            axes.bar(
                (one.low + one.high) / 2,
                one.accuracy,
                width=0.92 * (one.high - one.low),
                color=colour,
                alpha=0.2 + 0.5 * one.examples / most,
            )
            axes.plot([one.score] * 2, [around.low, around.high], color=colour, linewidth=1)
            axes.plot(one.score, one.accuracy, color=colour, marker="o", markersize=4.5)
        axes.set(title=f"{when.capitalize()}: error {percent(judged.ece)}", xlabel="score", ylabel="accuracy")
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
    return drawing.svg


def coverage_curve(predictions: Sequence[Prediction]) -> list[Coverage]:
    scores = np.array([prediction.score for prediction in predictions], np.float32)
    return coverages(scores, np.array([prediction.correct for prediction in predictions]))


def coverage_figure(curve: Sequence[Coverage], marked: Threshold | None) -> Markup:
    """Draw the accuracy on the most confident images against their share of all images."""
    drawing = Drawing("coverage", _coverage_in_words(curve, marked), 300, 280)
    with drawing as axes:
        marker = 0 if len(curve) > FEW_POINTS else 5
        shown = [curve[place] for place in evenly_spread(len(curve), MOST_POINTS)]
        axes.plot(
            [one.coverage for one in shown], [one.accuracy for one in shown], color=BLUE, marker="o", markersize=marker
        )
        if marked is not None:
            axes.plot(marked.found.coverage, marked.found.accuracy, color=ORANGE, marker="o", markersize=7)
            axes.axhline(marked.target, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        low = min(one.accuracy for one in shown)
        axes.set(title="Most confident images", xlabel="share of all images", ylabel="accuracy")
        axes.set(xlim=(0, 1.01), ylim=(max(0, low - 0.05), 1.005 if low < 0.98 else 1.001))
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
    return drawing.svg


def thresholds(curve: Sequence[Coverage], examples: int) -> list[Threshold]:
    """Return a threshold for each of TARGETS that is above the accuracy on all images and can be reached."""
    found = []
    for target in TARGETS:
        reaching = [one for one in curve if one.accuracy >= target]
        if reaching and curve[-1].accuracy < target:
            widest = max(reaching, key=lambda one: one.coverage)
            kept = round(widest.coverage * examples)
            found.append(Threshold(target, widest, kept, wilson(round(widest.accuracy * kept), kept)))
    return found


def _coverage_in_words(curve: Sequence[Coverage], marked: Threshold | None) -> str:
    description = f"Accuracy against coverage: {percent(curve[-1].accuracy)} of all images"
    if marked is None:
        return description
    return f"{description}, {percent(marked.found.accuracy)} of the most confident {percent(marked.found.coverage)}"


@dataclass(frozen=True)
class Pair:
    """`examples` images of class `label`, a fraction `share` of the class, were classified as `predicted`."""

    label: str
    predicted: str
    examples: int
    share: float


def most_confused(metrics: Metrics) -> list[Pair]:
    """Return the PAIRS most frequent mistakes, the most frequent first."""
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
    """Draw the confusion matrix: rows are labels, columns predictions, opacity the share of the row, blue correct."""
    counts = np.array(metrics.confusion)
    classes = len(counts)
    description = (
        f"Confusion matrix of {classes} classes: {percent(metrics.top1)} of {metrics.examples} images on the diagonal"
    )
    side = min(480, 150 + 32 * classes)
    drawing = Drawing("confusion", description, side, side)
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
        axes.set(xlabel="predicted" if classes <= NAMED else "predicted, by class number", ylabel="label")
        axes.spines[:].set_visible(True)
        axes.tick_params(length=0)
        axes.grid(False)
    return drawing.svg


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """Return the name, cut to `longest` characters.

    >>> shortened("a very long name of a class")
    'a very long n…'
    """
    text = printable(name)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _colours(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the colours of the cells, float64 RGBA [classes, classes, 4], 0 to 1."""
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    weakest = WEAKEST if len(counts) <= COUNTED else WEAKEST_DOT
    colours = np.zeros((*counts.shape, 4))
    colours[..., :3] = np.where(np.eye(len(counts), dtype=bool)[..., np.newaxis], RIGHT, WRONG)
    colours[..., 3] = np.where(counts > 0, weakest + (STRONGEST - weakest) * share, 0)
    return colours
