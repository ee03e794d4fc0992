"""`hyperrule label-errors`: images whose label is probably wrong."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from hyperrule.api import label_errors
from hyperrule.cli.options import data_options, writable
from hyperrule.support.wording import number, printable

if TYPE_CHECKING:
    from hyperrule.audit.label_errors import LabelErrors

SHOWN = 20  # rows on a terminal


@click.command("label-errors", short_help="Images whose label is probably wrong.")
@click.option("--dataset", required=True, metavar="TEXT", help="As for finetune: folder, table, tfds:NAME ...")
@click.option("--split", metavar="train|validation|test|all", help="Which images [train; if not split, all].")
@data_options("backbone", "input_range", "split_seed", "exclude", "skip_corrupt")
@click.option("--size", type=int, metavar="PX", help="Side to which images are resized [128].")
@click.option("--top", type=int, metavar="N", help="The N most suspicious [those that stand out].")
@click.option("--csv", "csv_file", metavar="FILE", help="Write them as CSV.")
@click.option("--html", metavar="FILE", help="Write them as one web page, with images.")
@click.option("--write-exclusions", metavar="FILE", help="Write their ids, for finetune --exclude.")
@click.option("--json", "as_json", is_flag=True, help="Print the complete findings as JSON.")
def command(
    csv_file: str | None, html: str | None, write_exclusions: str | None, as_json: bool, **options: Any
) -> None:
    """Find images that a closed-form probe of a frozen backbone's features puts into another class than their label.

    Each image is judged by a probe that has seen neither it nor an image equal to it. Those stand out whose label is so
    improbable that at most half of them would be if all labels were right. Look at the page before you leave them out:
    images that the backbone is wrong about are among them, and in clean data there is nothing else.

    \b
    Examples:
      hyperrule label-errors --dataset my_images --html errors.html
      hyperrule label-errors --dataset my_images --backbone efficientnet-lite0 --write-exclusions out.csv
      hyperrule finetune --dataset my_images --exclude out.csv
    """
    table, page = writable("--csv", csv_file), writable("--html", html)
    exclusions = writable("--write-exclusions", write_exclusions)
    found = label_errors(**{name: value for name, value in options.items() if value is not None})
    if table is not None:
        found.write_csv(table)
    if exclusions is not None:
        found.write_exclusions(exclusions)
    if page is not None:
        found.write_page(page)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        _render(found, exclusions)


def _render(found: "LabelErrors", exclusions: Path | None) -> None:
    from hyperrule.audit.label_errors import in_words

    click.echo(printable(in_words(found)))
    if found.suspects:
        table = Table(box=None, pad_edge=False, header_style="")
        for name in ("score", "label", "likelier", "image"):
            table.add_column(name, overflow="fold")
        for suspect in found.suspects[:SHOWN]:
            table.add_row(f"{suspect.score:.4f}", *map(printable, (suspect.label, suspect.likelier, suspect.id)))
        click.echo()
        Console(highlight=False, markup=False, emoji=False).print(table)
    if (more := len(found.suspects) - SHOWN) > 0:
        click.echo(f"and {more:,} more: --csv, --html and --json have all")
    if found.suspects:
        where = f"written to {exclusions}" if exclusions else "--write-exclusions FILE writes them"
        click.echo(f"\nleave out  {number(len(found.suspects), 'image')}, so that finetune takes the rest: {where}")
