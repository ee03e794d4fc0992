"""Can the probabilities be believed: reliability before and after, and accuracy against coverage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from hyperrule.evaluation.confidence import Coverage, Reliability, coverages
from hyperrule.evaluation.intervals import Interval, wilson
from hyperrule.pages.rendering import percent
from hyperrule.reporting.drawing import BLUE, ORANGE, PERCENT, SOFT, Drawing
from hyperrule.reporting.read import Prediction

TARGETS = (0.9, 0.95, 0.98, 0.99, 0.995)  # accuracies
MOST_POINTS, FEW_POINTS = 300, 5


@dataclass(frozen=True)
class Threshold:
    """The lowest score from which on predictions have at least the `target` accuracy: `kept` images do."""

    target: float
    found: Coverage
    kept: int
    interval: Interval


def reliability_figure(when: str, judged: Reliability) -> Markup:
    """Accuracy of the images of each bin of scores, with 95 % intervals; on the diagonal, scores can be believed."""
    filled = [one for one in judged.bins if one.examples]
    said = "; ".join(f"score {one.score:.2f}: {percent(one.accuracy)} right" for one in filled)
    drawing = Drawing(f"reliability-{when}", f"Reliability {when} calibration. {said}", 300, 280)
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
    """How accurate the surest part of the images is."""
    drawing = Drawing("coverage", _coverage_in_words(curve, marked), 300, 280)
    with drawing as axes:
        marker = 0 if len(curve) > FEW_POINTS else 5
        shown = [curve[place] for place in np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).round().astype(int))]
        axes.plot(
            [one.coverage for one in shown], [one.accuracy for one in shown], color=BLUE, marker="o", markersize=marker
        )
        if marked is not None:
            axes.plot(marked.found.coverage, marked.found.accuracy, color=ORANGE, marker="o", markersize=7)
            axes.axhline(marked.target, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        low = min(one.accuracy for one in shown)
        axes.set(title="The surest images", xlabel="part of all images", ylabel="accuracy")
        axes.set(xlim=(0, 1.01), ylim=(max(0, low - 0.05), 1.005 if low < 0.98 else 1.001))
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
    return drawing.svg


def thresholds(curve: Sequence[Coverage], examples: int) -> list[Threshold]:
    """For each of TARGETS above the accuracy of all images, as far as any threshold reaches it."""
    found = []
    for target in TARGETS:
        reaching = [one for one in curve if one.accuracy >= target]
        if reaching and curve[-1].accuracy < target:
            widest = max(reaching, key=lambda one: one.coverage)
            kept = round(widest.coverage * examples)
            found.append(Threshold(target, widest, kept, wilson(round(widest.accuracy * kept), kept)))
    return found


def _coverage_in_words(curve: Sequence[Coverage], marked: Threshold | None) -> str:
    said = f"Accuracy against coverage: {percent(curve[-1].accuracy)} of all images"
    if marked is None:
        return said
    return f"{said}, {percent(marked.found.accuracy)} of the surest {percent(marked.found.coverage)}"
