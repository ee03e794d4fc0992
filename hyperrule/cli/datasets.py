"""`hyperrule datasets`: what --dataset takes."""

import json
from textwrap import wrap

import click
from rich.console import Console

from hyperrule.data.sources.kinds import KINDS, Kind


@click.command("datasets", short_help="What --dataset takes.")
@click.option("--json", "as_json", is_flag=True, help="Print the kinds as JSON.")
def command(as_json: bool) -> None:
    """List the kinds of labelled image data that are understood, each with what to type for it.

    \b
    Example:
      hyperrule check images.csv                 what is wrong with the data
      hyperrule finetune --dataset images.csv    train, evaluate, export
    """
    if as_json:
        click.echo(json.dumps([_facts(kind) for kind in KINDS.values()], indent=2))
        return
    console = Console(highlight=False, markup=False)
    width = console.width if console.is_terminal else 110
    for kind in KINDS.values():
        console.print(f"{kind.name:17}--dataset {kind.typed}", soft_wrap=True)
        for line in wrap(_explained(kind), max(40, width - 17), break_on_hyphens=False):
            console.print(f"{'':17}{line}", soft_wrap=True)
    console.print()
    for line in (
        "splits   --train-split, --validation-split and --test-split say what a split is called, or its expression for",
        "         TFDS and Hugging Face ('train[:98%]'); where all is for training, a fifth of each class is held out",
        "keys     --image-key and --label-key name the column, feature or field, where it is not the usual one",
        "images   JPEG, PNG, GIF, BMP and WebP, of any size",
        "same     equal images in equal classes and splits give equal runs, whatever they are stored in",
    ):
        console.print(line, soft_wrap=True)


def _explained(kind: Kind) -> str:
    extra = f"; needs pip install 'hyperrule[{kind.extra}]'" if kind.extra else ""
    return f"{kind.explained}{extra}"


def _facts(kind: Kind) -> dict[str, str | None]:
    """What a program may want to know of a kind."""
    return {"name": kind.name, "example": kind.typed, "description": kind.explained, "extra": kind.extra or None}
