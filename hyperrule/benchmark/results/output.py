"""Writes the results of a ledger in the requested form: text tables, CSV, a plot or a web page.

The page has for each data set its figures, its results and published results; then comparisons, and cells without a
result.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from markupsafe import Markup

from hyperrule.benchmark.ledger import Line
from hyperrule.benchmark.results.plot import figure, panels
from hyperrule.benchmark.results.published import Beside, beside_published
from hyperrule.benchmark.results.summary import NAMES, Cell, Comparison, Summary, compare, summarise, vtab_scores
from hyperrule.benchmark.results.tables import Table, comparison_tables, published_tables, result_tables, trouble_table
from hyperrule.errors import RecipeError
from hyperrule.pages.rendering import render
from hyperrule.support.files import atomic_write
from hyperrule.support.wording import number

GENERATOR = "hyperrule bench"

Form = Literal["terminal", "markdown", "csv", "latex", "html", "svg"]


def write_tables(
    lines: Sequence[Line],
    form: Form,
    target: TextIO | Path,
    cells: Iterable[Cell] = (),
    against: tuple[str, str] | None = None,
    title: str = "Few-shot benchmark",
) -> None:
    """Write all tables, or for "svg" the plot, to a stream or a file. A file is written completely or not at all.

    `cells` are those of the grid; one without a line is listed as missing. `against` names two backbones or two methods
    that are compared on the same subsets; CSV then has only that comparison. `title` is that of the page.

    Raises RecipeError, before anything is written, if there is no cell, nothing to plot or nothing to compare, and
    RunError if the file cannot be written.
    """
    summaries = summarise(lines, cells)
    summaries += vtab_scores(summaries)
    if not summaries or (form == "svg" and not any(summary.top1 for summary in summaries)):
        raise RecipeError("the ledger has no finished cell yet. Run the grid first: hyperrule bench GRID")
    comparisons = compare(summaries, *against) if against is not None else []
    beside = beside_published(summaries)

    def write(stream: TextIO) -> None:
        _write(stream, form, summaries, beside, comparisons, title)

    if isinstance(target, Path):
        with atomic_write(target) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
            write(stream)
    else:
        write(target)


def _write(
    stream: TextIO,
    form: Form,
    summaries: Sequence[Summary],
    beside: Sequence[Beside],
    comparisons: Sequence[Comparison],
    title: str,
) -> None:
    # Imported here because matplotlib and rich are slow to import.
    match form:
        case "terminal":
            from hyperrule.benchmark.results.forms import render_terminal

            render_terminal(_tables(summaries, beside, comparisons), stream)
        case "markdown":
            from hyperrule.benchmark.results.forms import to_markdown

            stream.write(to_markdown(_tables(summaries, beside, comparisons)))
        case "latex":
            from hyperrule.benchmark.results.forms import to_latex

            stream.write(to_latex(_tables(summaries, beside, comparisons)))
        case "csv":
            from hyperrule.benchmark.results.forms import write_comparisons, write_results

            write_comparisons(comparisons, stream) if comparisons else write_results(summaries, beside, stream)
        case "html":
            stream.write(render_page(summaries, beside, comparisons, title))
        case "svg":
            from hyperrule.benchmark.results.plot import plot_file

            stream.write(plot_file(summaries))


def _tables(summaries: Sequence[Summary], beside: Sequence[Beside], comparisons: Sequence[Comparison]) -> list[Table]:
    trouble = trouble_table(summaries)
    return [
        *result_tables(summaries),
        *published_tables(beside),
        *comparison_tables(comparisons),
        *([trouble] if trouble is not None else []),
    ]


@dataclass
class Part:
    """The part of the page on one data set."""

    results: Table
    published: Table | None = None
    figures: list[Markup] = field(default_factory=list)


def render_page(
    summaries: Sequence[Summary], beside: Sequence[Beside], comparisons: Sequence[Comparison], title: str
) -> str:
    """Return the HTML page."""
    parts = {table.title: Part(table) for table in result_tables(summaries)}
    for dataset, table in zip(_datasets([one.summary for one in beside]), published_tables(beside), strict=True):
        parts[dataset].published = table
    for place, panel in enumerate(panels(summaries)):
        parts[panel.dataset].figures.append(figure(panel, f"panel{place}"))
    means, seeds = comparison_tables(comparisons) or (None, None)
    return render(
        "benchmark/results/page.html",
        generator=GENERATOR,
        title=title,
        counted=_counted(summaries),
        parts=list(parts.values()),
        means=means,
        seeds=seeds,
        trouble=trouble_table(summaries),
        without=sum(summary.seeds - len(summary.top1) for summary in summaries),
    )


def _datasets(summaries: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(summary.group.dataset for summary in summaries))


def _counted(summaries: Sequence[Summary]) -> str:
    measured = [
        summary for summary in summaries if summary.group.dataset not in NAMES
    ]  # scores summarise cells that are counted already
    cells, done = sum(summary.seeds for summary in measured), sum(len(summary.top1) for summary in measured)
    backbones = len({summary.group.backbone for summary in summaries})
    done_of = f"all {cells:,}" if done == cells else f"{done:,} of {cells:,}"
    return f"{number(len(_datasets(measured)), 'data set')}, {number(backbones, 'backbone')}: {done_of} cells done"
