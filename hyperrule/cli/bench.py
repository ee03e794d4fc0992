"""`hyperrule bench`: backbones x data sets x shots x seeds, measured once each."""

import json
import statistics
from typing import TYPE_CHECKING

import click

from hyperrule.api import bench, bench_status, plan_bench
from hyperrule.errors import RecipeError
from hyperrule.wording import duration, number, printable

if TYPE_CHECKING:
    from hyperrule.benchmark.outlook import Outlook, Status
    from hyperrule.benchmark.run_grid import Bench

WORTH_TELLING = 1.0  # seconds


@click.command("bench", short_help="Few-shot accuracy of backbones and methods, with statistics.")
@click.argument("grid")
@click.option("--out", metavar="FOLDER", help="Folder of the ledger [runs/bench/NAME].")
@click.option("--dataset", "places", multiple=True, metavar="NAME=PATH", help="Where a data set of the grid lies here.")
@click.option("--jobs", type=int, default=1, metavar="N", help="Processes that share this machine [1].")
@click.option("--retry-failed", is_flag=True, help="Measure cells again that failed.")
@click.option("--dry-run", is_flag=True, help="Show cells, time and what is done already; measure nothing.")
@click.option("--status", is_flag=True, help="Show how far it is, at once.")
@click.option("--json", "as_json", is_flag=True, help="Print lines of the ledger, or what is shown, as JSON.")
def command(
    grid: str,
    out: str | None,
    places: tuple[str, ...],
    jobs: int,
    retry_failed: bool,
    dry_run: bool,
    status: bool,
    as_json: bool,
) -> None:
    """Measure every cell of GRID, a YAML file or a shipped one: data sets x backbones x methods x shots x seeds.

    Every finished cell is a line of ledger.jsonl. The same command goes on after whatever stopped it, and does only
    what is missing; several of them may run on one folder. A cell that fails does not stop the others.

    \b
    Examples:
      hyperrule bench bench/digits --dry-run
      hyperrule bench bench/digits --jobs 2
      hyperrule bench bench/cifar10 --dataset cifar10=data/cifar10 --out runs/bench/cifar10
      hyperrule bench bench/cifar10 --status

    Exit codes: 0 done; 1 a cell failed; 2 the request cannot be met; 130 or 143 stopped by a signal.
    """
    if dry_run and status:
        raise RecipeError("--dry-run opens the data and shows every cell, --status answers at once: give one of them.")
    datasets = dict(map(_place, places))
    if status:
        progress = bench_status(grid, out=out)
        click.echo(progress.model_dump_json(indent=2)) if as_json else _render_status(progress)
    elif dry_run:
        ahead = plan_bench(grid, out=out, retry_failed=retry_failed, datasets=datasets)
        click.echo(ahead.model_dump_json(indent=2)) if as_json else _render_outlook(ahead)
    else:
        result = bench(grid, out=out, jobs=jobs, retry_failed=retry_failed, datasets=datasets)
        if as_json:
            click.echo(json.dumps([line.model_dump() for line in result.lines], indent=2))
        else:
            _render(result)
        click.get_current_context().exit(1 if result.failed else 0)


def _place(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise RecipeError(f"--dataset takes NAME=PATH, such as cifar10=data/cifar10. Received: {text!r}")
    return name, path


def _render_outlook(ahead: "Outlook") -> None:
    for one in ahead.cells:
        about = "about " if one.state == "missing" else ""
        time = "" if one.seconds is None or one.seconds < WORTH_TELLING else f"  {about}{duration(one.seconds)}"
        click.echo(printable(f"{one.state:7}  {one.cell}{time}"))
    missing = sum(one.state == "missing" for one in ahead.cells)
    click.echo(f"\n{missing} of {number(len(ahead.cells), 'cell')} to measure")
    if ahead.seconds is None:
        click.echo("time        not known beforehand")
    elif missing:
        basis = "of cells like them" if ahead.measured else "by operations"
        click.echo(f"time        about {duration(ahead.seconds)}, estimated {basis}")
        if ahead.features_seconds:
            click.echo(
                f"            {duration(ahead.features_seconds)} of it for features, unless they are kept already"
            )


def _render_status(progress: "Status") -> None:
    done = f"{progress.done} of {number(progress.cells, 'cell')} done"
    click.echo(f"{done}, {progress.failed} failed, {progress.missing} missing")
    for line in progress.at_work:
        click.echo(printable(f"at work  {line}"))
    for line in progress.errors:
        click.echo(printable(f"failed   {line}"))


def _render(result: "Bench") -> None:
    """Minimum, median and maximum over seeds, and what is not there."""
    rows: dict[tuple[str, str, str, str], list[float]] = {}
    for line in result.lines:
        if line.top1 is not None:
            rows.setdefault((line.dataset, line.backbone, line.method, str(line.shots)), []).append(line.top1)
    for (dataset, backbone, method, shots), values in rows.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        click.echo(printable(f"{dataset}  {backbone}  {method:14}  {shots:>4}  {low:7.2%} {middle:7.2%} {high:7.2%}"))
    for line in result.failed:
        click.echo(printable(f"failed  {line.dataset}, {line.backbone}, {line.method}: {line.error}"))
    if result.missing:
        click.echo(f"{number(len(result.missing), 'cell')} left to another process that is at work on them")
    click.echo(f"ledger  {result.folder / 'ledger.jsonl'}")
