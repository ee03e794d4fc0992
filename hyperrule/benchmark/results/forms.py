"""Writes tables for a terminal, in Markdown and in LaTeX; and results as CSV for programs, as unrounded fractions."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from hyperrule.benchmark.results.published import Beside
from hyperrule.benchmark.results.summary import Comparison, Summary
from hyperrule.benchmark.results.tables import MINUS, NONE, Column, Table
from hyperrule.support.wording import escape_markdown, printable

UNKNOWN_WIDTH = 160  # columns, if the output is not a terminal
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "{}$&#%_"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after \\, a bracket or star would begin an argument
        "*": "{*}",
        MINUS: "$-$",
        NONE: r"\textendash{}",
    }
)

Row = Mapping[str, object]


def render_terminal(tables: Iterable[Table], stream: TextIO) -> None:
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = UNKNOWN_WIDTH
    for number, table in enumerate(tables):
        if number:
            console.print()
        console.print(Text(printable(table.title), style="bold"))
        console.print(_rich(table))
        if table.note:
            console.print(Text(printable(table.note), style="dim"))


def to_markdown(tables: Iterable[Table]) -> str:
    return "\n\n".join(map(_markdown, tables)) + "\n"


def to_latex(tables: Iterable[Table]) -> str:
    r"""Return each table as a `table` for a document with \usepackage{booktabs}."""
    return "\n\n".join(map(_latex, tables)) + "\n"


def escaped(text: str) -> str:
    r"""Return LaTeX that shows the text literally.

    >>> print(escaped("50_%\\ --a"))
    50\_\%\textbackslash{} -{}-a
    """
    return re.sub("-(?=-)", "-{}", printable(" ".join(text.split())).translate(LATEX))


def _rich(table: Table) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in table.columns:
        # Names and reasons wrap, figures do not.
        grid.add_column(
            Text(printable(column.name)),
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
        )
    for row, following in zip_longest(table.rows, table.rows[1:]):
        ends = following is not None and row[0] != following[0]
        grid.add_row(*(Text(printable(cell)) for cell in row), end_section=ends)
    return grid


def _markdown(table: Table) -> str:
    heads = [escape_markdown(column.name) for column in table.columns]
    rules = ["---:" if column.is_number else "---" for column in table.columns]
    rows = ([escape_markdown(cell) for cell in row] for row in table.rows)
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))
    return "\n\n".join(
        [f"## {escape_markdown(table.title)}", grid, *([escape_markdown(table.note)] if table.note else [])]
    )


def _latex(table: Table) -> str:
    lines = [
        r"\begin{table}",
        rf"\caption{{{escaped(' '.join(filter(None, (table.title + '.', table.note))))}}}",
        rf"\begin{{tabular}}{{{_alignment(table.columns)}}}",
        r"\toprule",
        _latex_row([column.name for column in table.columns]),
        r"\midrule",
        *map(_latex_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _alignment(columns: Sequence[Column]) -> str:
    return "".join("r" if column.is_number else "l" for column in columns)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def write_results(summaries: Sequence[Summary], beside: Sequence[Beside], stream: TextIO) -> None:
    """Write a row for each group, with the first published figure that `beside` has for it."""
    published = {one.summary.group: one for one in reversed(beside)}
    _write([_result(summary) | _published(published.get(summary.group)) for summary in summaries], stream)


def write_comparisons(comparisons: Sequence[Comparison], stream: TextIO) -> None:
    """Write a row for each seed of each comparison."""
    _write([row for comparison in comparisons for row in _seeds(comparison)], stream)


def _write(rows: Sequence[Row], stream: TextIO) -> None:
    if rows:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows({name: _shown(value) for name, value in row.items()} for row in rows)


def _shown(value: object) -> object:
    match value:
        case float():
            return f"{value:.6g}"
        case str():
            return printable(value)
        case _:
            return value


def _result(summary: Summary) -> dict[str, object]:
    group, newest = summary.group, summary.newest
    interval = summary.mean_interval
    return {
        **vars(group),
        "size": (newest and newest.size) or None,
        "trained_on": newest and newest.trained_on,
        "test_images": newest and newest.examples,
        "seeds": summary.seeds,
        "done": len(summary.top1),
        "failed": len(summary.failed),
        "missing": len(summary.missing),
        **{name: getattr(summary, name) if newest else None for name in ("min", "median", "max", "mean")},
        "mean_low": interval and interval.low,
        "mean_high": interval and interval.high,
    }


def _published(beside: Beside | None) -> dict[str, object]:
    figures = beside.published.figures if beside else None
    return {
        **{
            f"published_{name}": None if (percent := getattr(figures, name, None)) is None else percent / 100
            for name in ("min", "median", "max")
        },
        "published_backbone": beside and beside.published.backbone,
        "published_source": beside and beside.published.table.source,
        "difference": beside and beside.difference / 100,
        "comparable": beside and str(beside.comparable).lower(),
        "not_comparable_because": beside and "; ".join(beside.reasons),
    }


def _seeds(comparison: Comparison) -> list[dict[str, object]]:
    return [
        {
            "dataset": comparison.dataset,
            "with": comparison.of,
            "shots": comparison.shots,
            "seed": seed,
            "one": comparison.one,
            "other": comparison.other,
            "one_top1": one,
            "other_top1": other,
            "difference": difference,
        }
        for (seed, (one, other)), difference in zip(comparison.by_seed.items(), comparison.differences, strict=True)
    ]
