"""A benchmark as one web page: of each data set the figures, the results and what was published; comparisons; cells
without a result."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from hyperrule.benchmark.results.plot import figure, panels
from hyperrule.benchmark.results.published import Beside
from hyperrule.benchmark.results.summary import NAMES, Comparison, Summary
from hyperrule.benchmark.results.tables import Table, comparison_tables, published_tables, result_tables, trouble_table
from hyperrule.pages.rendering import render
from hyperrule.support.wording import number

GENERATOR = "hyperrule bench"


@dataclass
class Part:
    """What the page says of a data set."""

    results: Table
    published: Table | None = None
    figures: list[Markup] = field(default_factory=list)


def render_page(
    summaries: Sequence[Summary], beside: Sequence[Beside], comparisons: Sequence[Comparison], title: str
) -> str:
    """HTML."""
    parts = {table.title: Part(table) for table in result_tables(summaries)}
    for dataset, table in zip(_datasets([one.summary for one in beside]), published_tables(beside), strict=True):
        parts[dataset].published = table
    for place, panel in enumerate(panels(summaries)):
        parts[panel.dataset].figures.append(figure(panel, f"panel{place}"))
    means, seeds = comparison_tables(comparisons) or (None, None)
    return render(
        "benchmark/page.html",
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
    measured = [summary for summary in summaries if summary.group.dataset not in NAMES]  # scores are of the same cells
    cells, done = sum(summary.seeds for summary in measured), sum(len(summary.top1) for summary in measured)
    backbones = len({summary.group.backbone for summary in summaries})
    done_of = f"all {cells:,}" if done == cells else f"{done:,} of {cells:,}"
    return f"{number(len(_datasets(measured)), 'data set')}, {number(backbones, 'backbone')}: {done_of} cells done"
