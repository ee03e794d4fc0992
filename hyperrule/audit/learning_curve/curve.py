"""Would more labels help? What `hyperrule learning-curve` finds.

A learning curve as one web page that needs nothing but itself.

A learning curve in one plain sentence.
"""

from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from pydantic import BaseModel, ConfigDict

from hyperrule.audit.learning_curve.extrapolate import (
    FITTED,
    BackTest,
    Expected,
    Outlook,
    PowerLaw,
    Verdict,
    look_ahead,
    power_law,
)
from hyperrule.audit.learning_curve.measure import SEEDS, SubsetAccuracies, measure
from hyperrule.data.listing import Split
from hyperrule.evaluation.features import FrozenFeatures
from hyperrule.pages.drawing import BLUE, ORANGE, PERCENT, Drawing
from hyperrule.pages.rendering import percent, render
from hyperrule.support.files import atomic_write


class Point(BaseModel):
    """Test accuracy of probes of so many training images, `per_class` a class in the mean: mean, lowest and highest of
    `subsets`."""

    model_config = ConfigDict(frozen=True)

    labels: int
    per_class: float
    subsets: int
    top1: float
    low: float
    high: float


class LearningCurve(BaseModel):
    """`points` ascend to all labels there are; `examples` images of `split` test them. `law` and `back_test` may be
    None, and `expected` empty, where the verdict is that nothing can be foretold."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    backbone: str
    size: int
    classes: int
    split: Split
    origin: str
    examples: int
    points: tuple[Point, ...]
    verdict: Verdict
    law: PowerLaw | None
    expected: tuple[Expected, ...]
    back_test: BackTest | None

    def write_page(self, file: Path) -> None:
        """One HTML page that needs nothing else. Raises RunError if it cannot be written."""

        page = render_page(self)
        with atomic_write(file) as partial:
            partial.write_text(page, encoding="utf-8")


def find_learning_curve(frozen: FrozenFeatures) -> LearningCurve:
    """Measure on the split that `finetune` would be judged by, and look ahead.

    Raises what `FrozenFeatures.features` raises.
    """
    source = frozen.source
    split: Split = "test" if "test" in source.splits else "validation"
    training, testing = source.examples("train"), source.examples(split)
    classes = len(source.listing.class_names)
    measured = measure(
        (frozen.features(training), training.labels),
        (frozen.features(testing), testing.labels),
        classes,
        frozen.reporter,
    )
    outlook: Outlook = look_ahead(measured)
    return LearningCurve(
        dataset=source.name,
        backbone=frozen.backbone.name,
        size=frozen.size,
        classes=classes,
        split=split,
        origin=source.info.splits[split].origin,
        examples=len(testing),
        points=_points(measured, classes),
        verdict=outlook.verdict,
        law=outlook.law,
        expected=outlook.expected,
        back_test=outlook.back_test,
    )


def _points(measured: SubsetAccuracies, classes: int) -> tuple[Point, ...]:
    return tuple(
        Point(
            labels=labels,
            per_class=labels / classes,
            subsets=1 if labels == measured.labels[-1] else SEEDS,
            top1=top1.mean(),
            low=top1.min(),
            high=top1.max(),
        )
        for labels, top1 in zip(measured.labels.tolist(), measured.top1, strict=True)
    )


def render_page(curve: LearningCurve) -> str:
    """HTML. Every name in it is text, whatever it holds."""
    return render(
        "audit/learning_curve/curve.html",
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


LEADS: dict[Verdict, str] = {
    "more labels help": "More labels should help",
    "hardly": "More labels will hardly help",
    "unclear": "Whether more labels help is unclear",
}


def answer(curve: LearningCurve) -> str:
    last = curve.points[-1]
    now = f"{a_class(last.per_class)} a class ({percent(last.top1)} right)"
    match curve.verdict:
        case "too few labels":
            return (
                f"Too few labels to tell: a curve needs {FITTED} sizes, each twice the one before, and so "
                f"{2 ** (FITTED - 1)} images in the largest class. There are {now}."
            )
        case "saturated":
            wrong = round((1 - last.top1) * curve.examples)
            return (
                f"Nothing is left to gain that this test could show: with {now}, {wrong} of its {curve.examples:,} "
                "images are wrong."
            )
        case "flat":
            before = curve.points[-FITTED]
            return (
                f"The curve is flat: from {a_class(before.per_class)} to {now} accuracy has not risen beyond "
                "chance, so more such labels are not what is missing. Try another --backbone or --size, and "
                "'hyperrule label-errors'."
            )
        case "poor fit":
            return f"The accuracies up to {now} follow no curve that could be drawn further."
        case verdict:
            twice, fourfold = (f"{percent(one.top1)} ({interval(one)})" for one in curve.expected)
            return (
                f"{LEADS[verdict]}: with {now}, twice as many would give {twice}, four times as many {fourfold}. "
                f"That these gain more than a point is {100 * curve.expected[-1].likely:.0f} % likely."
            )


def a_class(labels: float) -> str:
    """
    >>> a_class(40.0), a_class(2.5), a_class(412.7)
    ('40', '2.5', '413')
    """
    return f"{labels:,.0f}" if labels >= 10 or labels == round(labels) else f"{labels:.1f}"


def interval(expected: Expected) -> str:
    """As percent, from the low to the high end."""
    return f"{100 * expected.low:.1f} to {100 * expected.high:.1f}"
