"""`hyperrule check`, `label-errors` and `learning-curve`: the commands that examine a data set before training."""

import json
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from hyperrule.api import check, label_errors, learning_curve
from hyperrule.audit.check.findings import Findings
from hyperrule.audit.check.verdicts import facts, verdicts
from hyperrule.cli.options import data_flags, writable
from hyperrule.support.wording import number, printable

if TYPE_CHECKING:
    from hyperrule.audit.label_errors import LabelErrors
    from hyperrule.audit.learning_curve.curve import LearningCurve

INDENT = 10  # width of the headings, in columns
WIDTH = 100  # columns if stdout is not a terminal
SHOWN = 20  # rows on a terminal


@click.command("check", short_help="Find what is wrong with a data set, before training on it.")
@click.argument("dataset")
@data_flags("check")
@click.option("--html", metavar="FILE", help="Write the report as one web page, with images.")
@click.option(
    "--write-exclusions", metavar="FILE", help="Write the ids of images to leave out, for finetune --exclude."
)
@click.option("--json", "as_json", is_flag=True, help="Print the complete findings as JSON.")
def check_command(dataset: str, html: str | None, write_exclusions: str | None, as_json: bool, **options: Any) -> None:
    """Decode every image of DATASET, compare each with all others, and report what is wrong.

    DATASET is as for finetune, see 'hyperrule datasets'. The report lists files that cannot be read, images that are in
    two classes or in both training and test (equal bytes, or pictures that look the same), repeated images, odd sizes
    and formats, and classes without images.

    \b
    Examples:
      hyperrule check my_images --html report.html
      hyperrule check my_images --write-exclusions out.csv
      hyperrule finetune --dataset my_images --exclude out.csv

    Exit codes: 0 no errors; 1 errors were found; 2 the request cannot be met.
    """
    page, exclusions = writable("--html", html), writable("--write-exclusions", write_exclusions)
    found = check(dataset, **{name: value for name, value in options.items() if value is not None})
    if exclusions is not None:
        found.write_exclusions(exclusions)
    if page is not None:
        found.write_page(page)
    if as_json:
        click.echo(json.dumps(found.model_dump(), indent=2))
    else:
        _render_check(found, exclusions)
    click.get_current_context().exit(1 if found.must_be_mended else 0)


def _render_check(found: Findings, exclusions: Path | None) -> None:
    """Print errors, warnings and facts, then the number of images to leave out."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    width = (console.width if console.is_terminal else WIDTH) - INDENT

    def say(heading: str, text: str, style: str = "") -> None:
        for row, line in enumerate(wrap(text, max(40, width), break_on_hyphens=False)):
            console.print(f"{heading if row == 0 else '':{INDENT - 1}} ", style=style, end="")
            console.print(line)

    for verdict in verdicts(found):
        say(verdict.level, verdict.what, "bold red" if verdict.level == "error" else "yellow")
        for line in (verdict.some, f"-> {verdict.todo}" if verdict.todo else ""):
            say("", line)
    if not any(verdicts(found)):
        say("fine", "nothing is wrong with the images")
    console.print()
    for heading, text in facts(found):
        say(heading, text)
    if found.exclusions:
        console.print()
        where = f"written to {exclusions}" if exclusions else "--write-exclusions FILE writes them"
        say("leave out", f"{number(len(found.exclusions), 'image')}, so that finetune takes the rest: {where}")


@click.command("label-errors", short_help="Images whose label is probably wrong.")
@click.option("--dataset", required=True, metavar="TEXT", help="As for finetune: folder, table, tfds:NAME ...")
@click.option("--split", metavar="train|validation|test|all", help="Which images [train; if not split, all].")
@data_flags("label-errors")
@click.option("--size", type=int, metavar="PX", help="Side to which images are resized [128].")
@click.option("--top", type=int, metavar="N", help="The N most suspicious [those that stand out].")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the images found as CSV.")
@click.option("--html", metavar="FILE", help="Write the images found as one web page.")
@click.option("--write-exclusions", metavar="FILE", help="Write the ids of the images found, for finetune --exclude.")
@click.option("--json", "as_json", is_flag=True, help="Print the complete findings as JSON.")
def label_errors_command(
    csv_file: str | None, html: str | None, write_exclusions: str | None, as_json: bool, **options: Any
) -> None:
    """Find images whose label disagrees with a closed-form probe of a frozen backbone's features.

    Each image is scored by a probe that has seen neither it nor an equal image. An image stands out if its label is so
    improbable that, were all labels right, at most half as many images would. Look at the page before you leave
    images out: some of them are mistakes of the backbone, and in clean data all of them are.

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
        _render_label_errors(found, exclusions)


def _render_label_errors(found: "LabelErrors", exclusions: Path | None) -> None:
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
        click.echo(f"\nleave out  {number(len(found.suspects), 'image')}, so that finetune uses the rest: {where}")


@click.command("learning-curve", short_help="Estimate how much more labels would help, before training.")
@click.option("--dataset", required=True, metavar="TEXT", help="As for finetune: folder, table, tfds:NAME ...")
@data_flags("learning-curve")
@click.option("--size", type=int, metavar="PX", help="Side to which images are resized [128].")
@click.option("--html", metavar="FILE", help="Write the curve as one web page.")
@click.option("--json", "as_json", is_flag=True, help="Print the complete findings as JSON.")
def learning_curve_command(html: str | None, as_json: bool, **options: Any) -> None:
    """Measure how accuracy grows with the number of labels, and predict it for twice and four times as many.

    This measures a closed-form probe of a frozen backbone's features, on the test images of finetune: with all labels,
    half of them, a quarter ... The first run extracts features, at some hundred images per second or fewer; later runs
    take seconds. Fine-tuning is usually more accurate; how much more labels would help it is not measured.

    \b
    Examples:
      hyperrule learning-curve --dataset my_images
      hyperrule learning-curve --dataset my_images --backbone efficientnet-lite0 --html curve.html
    """
    page = writable("--html", html)
    curve = learning_curve(**{name: value for name, value in options.items() if value is not None})
    if page is not None:
        curve.write_page(page)
    if as_json:
        click.echo(curve.model_dump_json(indent=2))
    else:
        _render_curve(curve)


def _render_curve(curve: "LearningCurve") -> None:
    from hyperrule.audit.learning_curve.curve import a_class, answer, interval

    click.echo(f"{'labels a class':>14}  accuracy on {curve.examples:,} {curve.split} images")
    for point in curve.points:
        among = f"  {100 * point.low:.1f} to {100 * point.high:.1f} of {point.subsets} subsets"
        click.echo(f"{a_class(point.per_class):>14}  {point.top1:7.1%}{among if point.subsets > 1 else ''}")
    for one in curve.expected:
        click.echo(f"{a_class(one.labels / curve.classes):>14}  {one.top1:7.1%}  {interval(one)} expected")
    click.echo(f"\n{answer(curve)}")


COMMANDS = (check_command, label_errors_command, learning_curve_command)
