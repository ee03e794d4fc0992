"""`hyperrule check`: what is wrong with a data set."""

import json
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
from rich.console import Console

from hyperrule.api import check
from hyperrule.audit.check.findings import Findings
from hyperrule.audit.check.verdicts import facts, verdicts
from hyperrule.cli.options import data_options, writable
from hyperrule.support.wording import number

INDENT = 10  # columns of the headings
WIDTH = 100  # columns where there is no terminal


@click.command("check", short_help="What is wrong with a data set, before training on it.")
@click.argument("dataset")
@data_options("split_seed", "exclude")
@click.option("--html", metavar="FILE", help="Write the report as one web page, with images.")
@click.option("--write-exclusions", metavar="FILE", help="Write ids of images to leave out, for finetune --exclude.")
@click.option("--json", "as_json", is_flag=True, help="Print the complete findings as JSON.")
def command(dataset: str, html: str | None, write_exclusions: str | None, as_json: bool, **options: Any) -> None:
    """Decode every image of DATASET, compare each with all others, and say what is wrong.

    DATASET is what finetune takes, see 'hyperrule datasets'. Found are files that cannot be read, images that are in
    two classes or both in training and test (equal bytes, or pictures that look the same), repeats, odd sizes and
    formats, and classes without images.

    \b
    Examples:
      hyperrule check my_images --html report.html
      hyperrule check my_images --write-exclusions out.csv
      hyperrule finetune --dataset my_images --exclude out.csv

    Exit codes: 0 nothing must be mended; 1 errors were found; 2 the request cannot be met.
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
        _render(found, exclusions)
    click.get_current_context().exit(1 if found.must_be_mended else 0)


def _render(found: Findings, exclusions: Path | None) -> None:
    """Errors, warnings, facts; then what there is to leave out."""
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
