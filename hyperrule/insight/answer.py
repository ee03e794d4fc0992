"""A learning curve in one plain sentence."""

from hyperrule.insight.extrapolate import FITTED, Expected, Verdict
from hyperrule.insight.learning_curve import LearningCurve
from hyperrule.pages.rendering import percent

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
