"""Results as CSV, for programs: fractions, unrounded."""

import csv
from collections.abc import Mapping, Sequence
from typing import TextIO

from hyperrule.benchmark.comparison import Comparison
from hyperrule.benchmark.published import Beside
from hyperrule.benchmark.summary import Summary
from hyperrule.support.wording import printable

Row = Mapping[str, object]


def write_results(summaries: Sequence[Summary], beside: Sequence[Beside], stream: TextIO) -> None:
    """A row for each group; what is published is the first of what `beside` has of it."""
    published = {one.summary.group: one for one in reversed(beside)}
    _write([_result(summary) | _published(published.get(summary.group)) for summary in summaries], stream)


def write_comparisons(comparisons: Sequence[Comparison], stream: TextIO) -> None:
    """A row for each seed of each comparison."""
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
