"""Draws accuracy against shots: the median over seeds as a line, the range from lowest to highest as a band."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from hyperrule.benchmark.ledger import Shots
from hyperrule.benchmark.results.summary import Summary
from hyperrule.benchmark.results.tables import percent
from hyperrule.pages.drawing import PERCENT, Drawing
from hyperrule.reporting.curves import COLOURS
from hyperrule.support.wording import printable

WIDTH, HEIGHT, GAP = 420, 290, 24  # pixels, of a panel and between two
MARKERS = "osD^vP"  # tell lines apart for readers who cannot distinguish the colours
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # the style changes when all colours are used
ALONE = 3.0  # position of "full", in multiples of the most shots, if the number of classes is not known


@dataclass(frozen=True)
class Panel:
    """A figure of one data set: one line for each backbone of a method, or for each method of a backbone."""

    dataset: str
    title: str
    lines: dict[str, list[Summary]]


def panels(summaries: Sequence[Summary]) -> Iterator[Panel]:
    """Yield the panels of every data set: those that compare backbones for a method, or methods for a backbone.

    A data set with nothing to compare has one panel per method.
    """
    done = [summary for summary in summaries if summary.newest is not None]
    for dataset, members in groupby(done, key=lambda summary: summary.group.dataset):
        of_data = [*members]
        by_method = list(_panels(dataset, of_data, "measured_by", "backbone"))
        by_backbone = list(_panels(dataset, of_data, "backbone", "measured_by"))
        several = [panel for panel in (*by_method, *by_backbone) if len(panel.lines) > 1]
        yield from several or by_method


def figure(panel: Panel, name: str) -> Markup:
    """Return the panel as SVG in the page's colours; `name` is one word, unique on the page."""
    places = _places([summary for members in panel.lines.values() for summary in members])
    drawing = Drawing(name, _description(panel), WIDTH, HEIGHT)
    with drawing as axes:
        for number, (label, members) in enumerate(panel.lines.items()):
            _draw(axes, number, printable(label), members, places)
        axes.set(title=printable(panel.title), xscale="log", xlabel="images per class", ylabel="top-1 accuracy")
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PERCENT)
        _shots_axis(axes, places)
        axes.legend(fontsize=10)
    return drawing.svg


def plot_file(summaries: Sequence[Summary]) -> str:
    """Return all panels, two in a row, as an SVG file with light and dark colours."""
    found = list(panels(summaries))
    wide, rows = min(2, len(found)), -(-len(found) // 2)
    width, height = wide * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP
    placed = []
    for number, panel in enumerate(found):
        left, top = GAP + number % 2 * (WIDTH + GAP), GAP + number // 2 * (HEIGHT + GAP)
        where = f'<svg x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" '
        named = Panel(panel.dataset, f"{panel.dataset}: {panel.title}", panel.lines)
        placed.append(str(figure(named, f"panel{number}")).replace("<svg ", where, 1))
    said = escape(". ".join(_description(panel) for panel in found))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{said}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<style>\n{_colours()}\n"
        "text { font-family: system-ui, sans-serif; } svg { stroke-linejoin: round; }\n</style>\n"
        f'<rect width="100%" height="100%" fill="var(--card)"/>\n{"".join(placed)}\n</svg>\n'
    )


def _colours() -> str:
    """Return the colour variables at the top of the pages' style sheet."""
    sheet = files("hyperrule.pages").joinpath("style.css").read_text(encoding="utf-8")
    return sheet[: sheet.index("* {")]


def _panels(dataset: str, members: Sequence[Summary], one: str, several: str) -> Iterator[Panel]:
    """Yield a panel for each value of the attribute `one`, with a line for each value of `several`."""
    for name in dict.fromkeys(getattr(summary.group, one) for summary in members):
        lines: dict[str, list[Summary]] = {}
        for summary in members:
            if getattr(summary.group, one) == name:
                lines.setdefault(getattr(summary.group, several), []).append(summary)
        yield Panel(dataset, name, lines)


def _draw(axes: Axes, number: int, label: str, members: Sequence[Summary], places: Mapping[Shots, float]) -> None:
    x = [places[summary.group.shots] for summary in members]
    colour = COLOURS[number % len(COLOURS)]
    style = LINES[number // len(COLOURS) % len(LINES)]
    axes.fill_between(x, [one.min for one in members], [one.max for one in members], color=colour, alpha=0.16, lw=0)
    marker = MARKERS[number % len(MARKERS)]
    axes.plot(x, [one.median for one in members], color=colour, ls=style, marker=marker, markersize=5, label=label)


def _shots_axis(axes: Axes, places: Mapping[Shots, float]) -> None:
    """Set a tick for each number of shots; one tick shows both a number and "full" if they coincide."""
    names: dict[float, str] = {}
    for shots, place in places.items():
        near = next((known for known in names if abs(known / place - 1) < 0.05), place)
        names[near] = f"{names[near]} = {shots}" if near in names else f"{shots}"
    axes.xaxis.set_major_locator(FixedLocator(list(names)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(names), list(names.values()))


def _places(members: Sequence[Summary]) -> dict[Shots, float]:
    """Return the x position of each number of shots; "full" is at the mean number of training images per class."""
    counted = {one.group.shots: one.newest.trained_on for one in members if one.newest is not None}
    numbers = sorted(shots for shots in counted if shots != "full")
    places: dict[Shots, float] = {shots: float(shots) for shots in numbers}
    if "full" in counted:
        classes = [images / shots for shots in numbers if (images := counted[shots])]
        everything = counted["full"]
        known = bool(classes and everything)
        places["full"] = (everything or 0) / statistics.median(classes) if known else ALONE * max(numbers, default=1)
    return places


def _description(panel: Panel) -> str:
    lines = "; ".join(f"{printable(label)} {_medians(members)}" for label, members in panel.lines.items())
    return f"Accuracy by images per class, {printable(panel.dataset)}, {printable(panel.title)}. Medians: {lines}"


def _medians(members: Sequence[Summary]) -> str:
    return ", ".join(f"{percent(one.median)} % at {one.group.shots}" for one in members)
