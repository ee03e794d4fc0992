"""Makes the tables of a benchmark as text, independent of the form in which they are written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from hyperrule.benchmark.results.published import Beside, Figures
from hyperrule.benchmark.results.summary import Comparison, Summary
from hyperrule.evaluation.intervals import Interval

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
LEGEND = (
    "Top-1 accuracy in percent over seeds; each seed samples another balanced subset, unless all images are used. "
    "The mean has a 95 % bootstrap interval over seeds; for three or four seeds it is their range, which is "
    "too narrow. It does not cover the choice of test images."
)
PAIRED = (
    "Differences in percentage points, seed by seed on the same images; their mean has a 95 % paired t interval. "
    "Won, tied and lost count seeds."
)


@dataclass(frozen=True)
class Column:
    name: str
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """A table: each row has a text for every column. Texts are not escaped; each form escapes them in its own way."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def lead(self) -> int:
        """The number of columns of names before the first column of figures."""
        return next(place for place, column in enumerate(self.columns) if column.is_number)

    @property
    def groups(self) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """Consecutive rows with the same names, grouped; the rows are without the names."""
        by_names = groupby(self.rows, key=lambda row: row[: self.lead])
        return [(names, [row[self.lead :] for row in rows]) for names, rows in by_names]


def result_tables(summaries: Sequence[Summary]) -> Iterator[Table]:
    """Yield a table of results for each data set."""
    columns = (
        *map(Column, ("backbone", "method")),
        *(Column(name, is_number=True) for name in ("shots", "min", "median", "max", "mean", "95 % of mean", "px")),
        Column("seeds"),
    )
    for dataset, members in groupby(summaries, key=lambda summary: summary.group.dataset):
        yield Table(dataset, columns, tuple(map(_result, members)), LEGEND)


def published_tables(found: Sequence[Beside]) -> Iterator[Table]:
    """Yield a table of published results for each data set that has some."""
    columns = (
        *map(Column, ("backbone", "method")),
        *(Column(name, is_number=True) for name in ("shots", "ours", "published", "difference")),
        *map(Column, ("published of", "comparable")),
    )
    for dataset, members in groupby(found, key=lambda beside: beside.summary.group.dataset):
        rows = [*members]
        sources = dict.fromkeys((one.published.table.source, one.published.table.where) for one in rows)
        where = "; ".join(f"{source}: {address}" for source, address in sources)
        yield Table(
            f"{dataset}, beside what was published",
            columns,
            tuple(map(_beside, rows)),
            f"Min, median and max of top-1 in percent; differences of medians in percentage points. {where}.",
        )


def comparison_tables(comparisons: Sequence[Comparison]) -> tuple[Table, ...]:
    """Return a table of mean differences and one of all seeds; no tables without comparisons."""
    if not comparisons:
        return ()
    one, other = comparisons[0].one, comparisons[0].other
    named = (*map(Column, ("data set", "with")), Column("shots", is_number=True))
    means = (Column("mean difference", True), Column("95 %", True), Column("won, tied, lost", True))
    each = (Column("seed", True), Column(one, True), Column(other, True), Column("difference", True))
    rows = tuple(row for comparison in comparisons for row in _seeds(comparison))
    return (
        Table(f"{one} against {other}", (*named, *means), tuple(map(_mean_difference, comparisons)), PAIRED),
        Table(f"{one} against {other}, seed by seed", (*named, *each), rows),
    )


def trouble_table(summaries: Sequence[Summary]) -> Table | None:
    """Return a table of failed cells, with reasons, and missing cells; None if there are neither."""
    rows = []
    for summary in summaries:
        group = summary.group
        states: dict[str, list[int]] = {}
        for seed, why in summary.failed.items():
            states.setdefault(f"failed: {why}", []).append(seed)
        if summary.missing:
            states["missing"] = list(summary.missing)
        for state, seeds in states.items():
            named = (group.dataset, group.backbone, group.measured_by, str(group.shots))
            rows.append((*named, ", ".join(map(str, seeds)), state))
    if not rows:
        return None
    names = ("data set", "backbone", "method", "shots", "seeds", "state")
    columns = tuple(Column(name, is_number=name == "shots") for name in names)
    return Table("Cells without a result", columns, tuple(rows))


def _result(summary: Summary) -> tuple[str, ...]:
    group = summary.group
    named = (group.backbone, group.measured_by, str(group.shots))
    if summary.newest is None:
        return (*named, *[NONE] * 6, _seed_count(summary))
    figures = (summary.min, summary.median, summary.max, summary.mean)
    interval = _interval(summary.mean_interval, percent)
    return (*named, *map(percent, figures), interval, str(summary.newest.size or NONE), _seed_count(summary))


def _seed_count(summary: Summary) -> str:
    """Return the number of seeds with a result, and how many failed or are missing."""
    others = {"failed": len(summary.failed), "missing": len(summary.missing)}
    told = [f"{count} {what}" for what, count in others.items() if count]
    return f"{len(summary.top1)} of {summary.seeds}: {', '.join(told)}" if told else str(summary.seeds)


def _beside(beside: Beside) -> tuple[str, ...]:
    summary, published = beside.summary, beside.published
    group = summary.group
    ours = Figures(min=100 * summary.min, median=100 * summary.median, max=100 * summary.max)
    return (
        *(group.backbone, group.measured_by, str(group.shots)),
        *(_range(ours), _range(published.figures), signed(beside.difference / 100)),
        f"{published.backbone}; {published.table.source}",
        "yes" if beside.comparable else f"no: {'; '.join(beside.reasons)}",
    )


def _range(figures: Figures) -> str:
    if figures.min is None or figures.max is None:
        return f"{figures.median:.1f}"
    return " / ".join(f"{value:.1f}" for value in (figures.min, figures.median, figures.max))


def _mean_difference(comparison: Comparison) -> tuple[str, ...]:
    counts = ", ".join(map(str, (comparison.wins, comparison.ties, comparison.losses)))
    mean, interval = signed(comparison.mean), _interval(comparison.interval, signed)
    return (comparison.dataset, comparison.of, str(comparison.shots), mean, interval, counts)


def _seeds(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    named = (comparison.dataset, comparison.of, str(comparison.shots))
    for (seed, (one, other)), difference in zip(comparison.by_seed.items(), comparison.differences, strict=True):
        yield (*named, str(seed), percent(one), percent(other), signed(difference))


def _interval(interval: Interval | None, shown: Callable[[float], str]) -> str:
    return NONE if interval is None else f"{shown(interval.low)} to {shown(interval.high)}"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with one decimal.

    >>> percent(0.83251)
    '83.3'
    """
    return f"{100 * fraction:.1f}"


def signed(fraction: float) -> str:
    """Return a difference in percentage points, with its sign.

    >>> signed(0.012), signed(-0.0001), signed(-0.0301) == f"{MINUS}3.0"
    ('+1.2', '0.0', True)
    """
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)
