"""A learning curve as one web page that needs nothing but itself."""

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from hyperrule.insight.answer import a_class, answer, interval
from hyperrule.insight.extrapolate import FITTED
from hyperrule.insight.learning_curve import LearningCurve
from hyperrule.insight.power_law import power_law
from hyperrule.pages.rendering import percent, render
from hyperrule.reporting.drawing import BLUE, ORANGE, PERCENT, Drawing


def render_page(curve: LearningCurve) -> str:
    """HTML. Every name in it is text, whatever it holds."""
    return render(
        "insight/learning_curve.html",
        curve=curve,
        answer=answer(curve),
        figure=_figure(curve),
        a_class=a_class,
        interval=interval,
        fitted=FITTED,
    )


def _figure(curve: LearningCurve) -> Markup:
    last = curve.points[-1]
    said = f"Accuracy by labels a class: {percent(last.top1)} with {a_class(last.per_class)}, all there are"
    drawing = Drawing("curve", said, width=500, height=270)
    with drawing as axes:
        per_class, top1, low, high = np.array(
            [(point.per_class, point.top1, point.low, point.high) for point in curve.points]
        ).T
        axes.errorbar(
            per_class,
            top1,
            (top1 - low, high - top1),
            color=BLUE,
            marker="o",
            markersize=5,
            linewidth=0,
            elinewidth=1.5,
            label="measured, lowest to highest subset",
        )
        if curve.law is not None:
            _draw_expected(axes, curve)
        axes.set(xscale="log", xlabel="labels a class")
        ticks = [*per_class, *(one.labels / curve.classes for one in curve.expected)]
        axes.set_xticks(ticks, [a_class(tick) for tick in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PERCENT)
        axes.legend(loc="lower right")
    return drawing.svg


def _draw_expected(axes: Axes, curve: LearningCurve) -> None:
    assert curve.law is not None
    now, law = curve.points[-1].per_class, (curve.law.a, curve.law.b, curve.law.c)
    first = curve.points[-FITTED].per_class
    for start, end, style in ((first, now, "-"), (now, now * curve.expected[-1].times, (0, (4, 3)))):
        n = np.geomspace(start, end, 50)
        axes.plot(n, power_law(n / now, *law), color=ORANGE, linestyle=style, linewidth=1.8)
    per_class, top1, low, high = np.array(
        [(one.labels / curve.classes, one.top1, one.low, one.high) for one in curve.expected]
    ).T
    axes.errorbar(
        per_class,
        top1,
        (top1 - low, high - top1),
        color=ORANGE,
        marker="o",
        markersize=5,
        markerfacecolor="none",
        linewidth=0,
        elinewidth=1.5,
        label="expected, 95\N{NO-BREAK SPACE}% interval",
    )
