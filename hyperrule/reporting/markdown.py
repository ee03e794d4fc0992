"""Formats values, lists and tables as Markdown, and the sections that model cards of all kinds share."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from hyperrule.evaluation.intervals import Interval
from hyperrule.planning.training_plan import TrainingPlan
from hyperrule.support.wording import escape_markdown


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def between(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"


def percentage(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def fenced(text: str, language: str) -> str:
    fence = "`" * (1 + max(2, *map(len, re.findall("`+", text)), 0))
    return f"{fence}{language}\n{text}{fence}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown_decision(value: Any) -> str:
    """Return the value of a decision as text.

    >>> shown_decision(True), shown_decision(None), shown_decision(0.003), shown_decision((1, 2))
    ('yes', 'none', '0.003', '1, 2')
    """
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case int() | float():
            return f"{value:,}" if isinstance(value, int) else f"{value:g}"
        case tuple():
            return ", ".join(map(shown_decision, value))
        case _:
            return str(value)


def deviations(plan: TrainingPlan) -> Iterator[str]:
    yield "## Deviations from the BiT-HyperRule"
    listed = [
        f"{name}: {shown_decision(made.value)} ({escape_markdown(made.reason)})"
        for name, made in plan.deviations.items()
    ]
    yield bullets(listed) if listed else "none"


def skipped_images(skipped: dict[str, str]) -> Iterator[str]:
    if skipped:
        yield "## Images left out"
        yield bullets(f"{escape_markdown(image)}: {escape_markdown(problem)}" for image, problem in skipped.items())
