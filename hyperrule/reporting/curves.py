"""Draws the curves of a training: loss, learning rate, images per second, evaluations during training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from hyperrule.pages.drawing import BLUE, INK, ORANGE, PERCENT, RED, SHORT, SOFT, Drawing, step_axis
from hyperrule.pages.rendering import percent
from hyperrule.support.wording import printable

Log = Sequence[Mapping[str, Any]]
Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # steps, values: both [n]

MOST_POINTS = 600  # points drawn of a curve; of a longer one, the lowest and highest of each part
SMOOTHED_FROM = 20  # steps; shorter curves are not smoothed
WINDOW = 1 / 20  # fraction of all steps over which the loss is averaged
FIGURES = (("top1", "accuracy"), ("top1_agreement", "agreement"), ("features_r2", "features explained"))
COLOURS = (BLUE, ORANGE, RED, INK, SOFT)


def curves(log: Log) -> list[Markup]:
    """Return up to four figures, those for which the log has values."""
    loss, rate, speed = (curve(log, name) for name in ("loss", "learning_rate", "images_per_second"))
    norm = curve(log, "gradient_norm")
    drawn = ((_loss, loss), (_rate, rate), (_speed, speed))
    figures = [draw(found) for draw, found in drawn if len(found[0])]
    if (evaluated := _evaluations(log)) is not None:
        return [*figures, evaluated]
    return [*figures, _gradient(norm)] if len(norm[0]) else figures


def curve(log: Log, name: str, kind: str = "step") -> Curve:
    """Return the curve of a figure in the log, without the steps that lack it."""
    known = [(line["step"], line[name]) for line in log if line["kind"] == kind and line.get(name) is not None]
    steps, values = np.array(known, np.float64).reshape(-1, 2).T
    return steps, values


def overlaid(name: str, title: str, named: Mapping[str, Curve]) -> Markup:
    """Draw the curves of several runs, by the runs' names, in one figure; only the loss is smoothed."""
    drawing = Drawing(name, f"{title} by step, of {', '.join(map(printable, named))}", height=240)
    with drawing as axes:
        for place, (label, (steps, values)) in enumerate(named.items()):
            shown = smoothed(values) if name == "loss" else np.where(values > 0, values, np.nan)
            axes.plot(*thinned(steps, shown), color=COLOURS[place % len(COLOURS)], label=printable(label))
        axes.set(title=title, yscale="log" if name == "learning-rate" else "linear")
        step_axis(axes)
        if name == "loss":
            axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(PERCENT if name.startswith("top1") else SHORT)
        axes.minorticks_off()
        axes.legend()
    return drawing.svg


def smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return moving averages over a twentieth of all steps, fewer near both ends."""
    if len(values) < SMOOTHED_FROM:
        return values
    half = max(1, round(len(values) * WINDOW / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: npt.NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


def thinned(steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> Curve:
    """Return at most MOST_POINTS points that keep the look of the curve."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), MOST_POINTS // 2)
    kept = np.unique([place for part in parts for place in (part[values[part].argmin()], part[values[part].argmax()])])
    return steps[kept], values[kept]


def _loss(found: Curve) -> Markup:
    steps, values = found
    smooth = smoothed(values)
    description = f"Training loss by step: {smooth[0]:.3g} at first, {smooth[-1]:.3g} at the end"
    drawing = Drawing("loss", description)
    with drawing as axes:
        if smooth is not values:
            axes.plot(*thinned(steps, values), color=BLUE, alpha=0.35, linewidth=1, label="each step")
            axes.plot(*thinned(steps, smooth), color=BLUE, label="moving average")
            axes.legend()
        else:
            axes.plot(steps, values, color=BLUE, marker="o", markersize=4)
        axes.set(title="Training loss", ylim=(0, None))
        step_axis(axes)
    return drawing.svg


def _rate(found: Curve) -> Markup:
    steps, values = found
    drawing = Drawing("rate", f"Learning rate by step: {values.max():.2g} at the highest, {values[-1]:.2g} at the end")
    with drawing as axes:
        axes.plot(*thinned(steps[values > 0], values[values > 0]), color=ORANGE)
        axes.set(title="Learning rate", yscale="log" if (values > 0).any() else "linear")
        step_axis(axes)
        axes.yaxis.set_major_formatter(SHORT)
        axes.minorticks_off()
    return drawing.svg


def _speed(found: Curve) -> Markup:
    steps, values = found
    median = float(np.median(values))
    drawing = Drawing("speed", f"Images per second by step: {median:.3g} at the median")
    with drawing as axes:
        axes.plot(*thinned(steps, values), color=BLUE, linewidth=1.2)
        axes.axhline(median, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(title=f"Images per second (median {median:,.3g})", ylim=(0, None))
        step_axis(axes)
        axes.yaxis.set_major_formatter(SHORT)
    return drawing.svg


def _gradient(found: Curve) -> Markup:
    steps, values = found
    drawing = Drawing("gradient", f"Norm of the gradient by step: {np.median(values):.3g} at the median")
    with drawing as axes:
        axes.plot(*thinned(steps, values), color=ORANGE, alpha=0.35, linewidth=1)
        axes.plot(*thinned(steps, smoothed(values)), color=ORANGE)
        axes.set(title="Norm of the gradient", ylim=(0, None))
        step_axis(axes)
    return drawing.svg


def _evaluations(log: Log) -> Markup | None:
    """Draw the first of FIGURES that evaluations during training measured; None if there were none."""
    for name, title in FIGURES:
        steps, values = curve(log, name, "evaluation")
        if len(steps):
            drawing = Drawing("on-the-way", f"{title.capitalize()} during training: {percent(values[-1])} at the end")
            with drawing as axes:
                axes.plot(*thinned(steps, values), color=BLUE, marker="o", markersize=4)
                axes.set(title=f"{title.capitalize()} during training")
                step_axis(axes)
                axes.yaxis.set_major_formatter(PERCENT)
            return drawing.svg
    return None
