"""`hyperrule bench`: measures each cell of a grid, data sets x backbones x methods x shots x seeds, once."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from hyperrule.api import bench, bench_status, plan_bench
from hyperrule.cli.options import writable
from hyperrule.errors import RecipeError
from hyperrule.support.wording import duration, number, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperrule.benchmark.grid import Cell
    from hyperrule.benchmark.ledger import Line
    from hyperrule.benchmark.outlook import Outlook, Status
    from hyperrule.benchmark.results.output import Form
    from hyperrule.benchmark.run_grid import Bench

WORTH_TELLING = 1.0  # seconds; shorter times are not shown
FORMS: dict[str, "Form"] = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".html": "html", ".svg": "svg"}


@click.command("bench", short_help="Compare the few-shot accuracy of backbones and methods.")
@click.argument("grid")
@click.option("--out", metavar="FOLDER", help="Folder of the ledger [runs/bench/NAME].")
@click.option(
    "--dataset",
    "places",
    multiple=True,
    metavar="NAME=PATH",
    help="Location of one of the grid's data sets on this machine.",
)
@click.option("--jobs", type=int, default=1, metavar="N", help="Processes on each machine [1].")
@click.option("--engine", default="local", metavar="NAME", help="local, or ray for a cluster [local].")
@click.option(
    "--address", metavar="HOST:PORT", help="Ray cluster to use, or auto; by default Ray starts on this machine."
)
@click.option("--retry-failed", is_flag=True, help="Measure failed cells again.")
@click.option("--dry-run", is_flag=True, help="Show cells, time and what is done; measure nothing.")
@click.option("--status", is_flag=True, help="Show progress at once, without opening the data.")
@click.option("--compare", nargs=2, metavar="A B", help="Compare two backbones or two methods, subset by subset.")
@click.option(
    "--write", "files", multiple=True, metavar="FILE", help="Write tables or a plot: .md, .csv, .tex, .html, .svg."
)
@click.option("--json", "as_json", is_flag=True, help="Print the ledger's lines, or what would be shown, as JSON.")
def bench_command(
    grid: str,
    out: str | None,
    places: tuple[str, ...],
    jobs: int,
    engine: str,
    address: str | None,
    retry_failed: bool,
    dry_run: bool,
    status: bool,
    compare: tuple[str, str] | None,
    files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure every cell of GRID, a YAML file or a shipped one: data sets x backbones x methods x shots x seeds.

    Every finished cell is a line of ledger.jsonl. After an interruption, the same command resumes and measures only
    missing cells. Several commands may run on one folder. A cell that fails does not stop the others.

    With --engine ray, the cells are tasks of a Ray cluster. All its machines must see --out, the data and the cache
    (HYPERRULE_CACHE_DIR) under the same paths, and have the same hyperrule[ray] installed. If a machine dies, another
    one takes over its cells.

    \b
    Examples:
      hyperrule bench bench/digits --dry-run
      hyperrule bench bench/digits --jobs 2
      hyperrule bench bench/cifar10 --dataset cifar10=data/cifar10 --out runs/bench/cifar10
      hyperrule bench bench/digits --out /shared/digits --engine ray --address auto
      hyperrule bench bench/cifar10 --status
      hyperrule bench bench/digits --write results.html --compare probe finetune
      hyperrule bench bench/digits --status --write so-far.html

    Exit codes: 0 done; 1 a cell failed or could not be measured; 2 the request cannot be met; 130 or 143 stopped by
    a signal.
    """
    if dry_run and status:
        raise RecipeError("--dry-run opens the data and shows every cell, --status answers at once: set one of them.")
    if dry_run and (compare or files):
        raise RecipeError("--compare and --write need measurements: leave out --dry-run.")
    datasets, forms = dict(map(_place, places)), _forms(files)
    if compare:
        _check_pair(grid, compare)
    if status:
        progress = bench_status(grid, out=out)
        for file, form in forms:
            _write(progress.lines, progress.grid, form, file, compare, Path(grid).stem)
        click.echo(progress.model_dump_json(indent=2)) if as_json else _render_status(progress)
        if compare and not as_json:
            _write(progress.lines, progress.grid, "terminal", sys.stdout, compare)
    elif dry_run:
        ahead = plan_bench(grid, out=out, retry_failed=retry_failed, datasets=datasets)
        click.echo(ahead.model_dump_json(indent=2)) if as_json else _render_outlook(ahead)
    else:
        result = bench(
            grid, out=out, jobs=jobs, retry_failed=retry_failed, datasets=datasets, engine=engine, address=address
        )
        for file, form in forms:
            _write(result.lines, result.cells, form, file, compare, Path(grid).stem)
        if as_json:
            click.echo(json.dumps([line.model_dump() for line in result.lines], indent=2))
        else:
            _render(result, compare)
        click.get_current_context().exit(1 if result.failed or result.missing else 0)


def _place(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise RecipeError(f"--dataset takes NAME=PATH, such as cifar10=data/cifar10. Received: {text!r}")
    return name, path


def _render_outlook(ahead: "Outlook") -> None:
    for one in ahead.cells:
        about = "about " if one.state in ("missing", "absent") else ""
        time = "" if one.seconds is None or one.seconds < WORTH_TELLING else f"  {about}{duration(one.seconds)}"
        click.echo(printable(f"{one.state:7}  {one.cell}{time}"))
    left = sum(one.state in ("missing", "absent") for one in ahead.cells)
    click.echo(f"\n{left} of {number(len(ahead.cells), 'cell')} to measure")
    if left > ahead.untimed:
        basis = "from similar cells" if ahead.measured else "from operation counts"
        besides = f", without {number(ahead.untimed, 'cell')} of unknown time" if ahead.untimed else ""
        click.echo(f"time        about {duration(ahead.seconds)}, estimated {basis}{besides}")
        if ahead.features_seconds:
            click.echo(f"            {duration(ahead.features_seconds)} of it for features, unless they are cached")
    elif left:
        click.echo("time        not known in advance")
    for reason in ahead.absent:
        click.echo(printable(f"absent      {reason}"))


def _render_status(progress: "Status") -> None:
    done = f"{progress.done} of {number(progress.cells, 'cell')} done"
    click.echo(f"{done}, {progress.failed} failed, {progress.missing} missing, if data and weights have not changed")
    for line in progress.at_work:
        click.echo(printable(f"at work  {line}"))
    for line in progress.errors:
        click.echo(printable(f"failed   {line}"))


def _render(result: "Bench", against: tuple[str, str] | None) -> None:
    """Print tables over seeds, and the cells that are missing."""
    _write(result.lines, result.cells, "terminal", sys.stdout, against)
    if result.elsewhere:
        click.echo(f"{number(len(result.elsewhere), 'cell')} are being measured by another process")
    for reason, missing in result.missing.items():
        click.echo(printable(f"missing  {number(len(missing), 'cell')}: {reason}"))
    click.echo(f"ledger  {result.folder / 'ledger.jsonl'}")


def _write(
    lines: "Sequence[Line]",
    cells: "Sequence[Cell]",
    form: "Form",
    target: TextIO | Path,
    against: tuple[str, str] | None,
    title: str = "",
) -> None:
    from hyperrule.benchmark.results.output import write_tables

    write_tables(lines, form, target, cells, against, title)


def _check_pair(grid: str, pair: tuple[str, str]) -> None:
    """Raises RecipeError, before anything is measured, if the two cannot be compared."""
    from hyperrule.benchmark.grid import read_grid
    from hyperrule.benchmark.results.summary import compared, summarise

    compared(summarise((), read_grid(os.path.expanduser(grid)).cells()), *pair)


def _forms(names: tuple[str, ...]) -> list[tuple[Path, "Form"]]:
    """Return the files to write, each with the form that its suffix selects."""
    found = []
    for name in names:
        file = writable("--write", name)
        form = FORMS.get(Path(name).suffix)
        if file is None or form is None:
            raise RecipeError(f"--write takes a FILE that ends in {', '.join(FORMS)}. Received: {name!r}")
        found.append((file, form))
    return found


COMMANDS = (bench_command,)
