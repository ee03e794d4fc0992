"""`hyperrule backbones`, `datasets` and `recipes`: the commands that list what hyperrule knows by name."""

import json
from itertools import groupby, zip_longest
from textwrap import wrap
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from hyperrule.backbones.zoo import ZOO, Family, Released, Source, matching, suggestions
from hyperrule.data.sources.kinds import KINDS, Kind
from hyperrule.errors import BackboneError
from hyperrule.recipe import load_recipe, shipped_recipes

Row = tuple[str, str, str, str, str, str]
HEADINGS: Row = ("name", "parameters", "features", "px", "head", "download")
NARROWEST_NAME = 20  # characters; lines wrap on terminals of fewer than 68 columns


@click.command("backbones", short_help="List the backbones that --backbone knows by name.")
@click.argument("part", metavar="[FILTER]", default="")
@click.option("--json", "as_json", is_flag=True, help="Print all facts as JSON.")
def backbones_command(part: str, as_json: bool) -> None:
    """List the backbones that hyperrule knows by name; with FILTER, those whose name contains it.

    \b
    Example:
      hyperrule backbones r50x1     only those with r50x1 in their name
      hyperrule finetune --dataset my_images --backbone bit-m-r50x1
    """
    shown = matching(part)
    if not shown:
        close = suggestions(part)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise BackboneError(
            f"no backbone has {part!r} in its name.{hint} Without a filter, all {len(ZOO)} are listed. "
            "--backbone also takes paths, and hub handles that are not listed."
        )
    if as_json:
        click.echo(json.dumps([facts(released) for released in shown], indent=2))
    else:
        render(shown)


def facts(released: Released) -> dict[str, Any]:
    """Return all facts about a backbone, for JSON."""
    head, source = released.head, released.source
    return {
        "name": released.name,
        "family": released.family.title,
        "architecture": None if released.architecture is None else str(released.architecture),
        "features": released.features,
        "parameters": released.parameters,
        "trained_on": released.trained_on,
        "input_range": released.input_range,
        "resolution": released.resolution,
        "head": head and {"activation": head.activation, "classes": head.classes, "class_names": head.class_names},
        "source": {"kind": source.kind, "location": source.location, "url": source.url},
        "download_bytes": released.download_bytes,
        "licence": released.licence,
        "reference": released.reference,
    }


def render(shown: list[Released]) -> None:
    """Print the backbones family by family, then a legend."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 140
    rows = {released: _row(released) for released in shown}
    # One set of widths for all families, so that their columns align.
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows.values(), strict=True)]
    widths[0] = max(NARROWEST_NAME, min(widths[0], console.width - sum(width + 2 for width in widths[1:])))
    _print_row(console, HEADINGS, widths)
    for family, members in groupby(shown, key=lambda released: released.family):
        of_family = list(members)
        console.print()
        console.print(Text(family.title, style="bold"), _common(family, of_family[0].source), sep=": ")
        for released in of_family:
            _print_row(console, rows[released], widths)
    console.print()
    for label, text in _legend(shown):
        lines = wrap(text, max(40, console.width - 10), break_long_words=False, break_on_hyphens=False)
        for start, line in zip_longest([label], lines, fillvalue=""):
            console.print(f"{start:10}{line}", soft_wrap=True)


def _print_row(console: Console, row: Row, widths: list[int]) -> None:
    """Print a row. A name too long for its column gets its own line, so that it can still be copied."""
    name, parameters, features, pixels, head, download = row
    if len(name) > widths[0]:
        console.print(name, soft_wrap=True)
        name = ""
    _, *others = widths
    cells = (
        name.ljust(widths[0]),
        parameters.rjust(others[0]),
        features.rjust(others[1]),
        pixels.rjust(others[2]),
        head.ljust(others[3]),
        download.rjust(others[4]),
    )
    console.print("  ".join(cells).rstrip(), soft_wrap=True)


def _row(released: Released) -> Row:
    head = released.head
    return (
        released.name,
        f"{released.parameters / 1e6:.1f} M",
        str(released.features),
        str(released.resolution),
        "-" if head is None else f"{head.classes:,} {head.activation}",
        _size(released),
    )


def _size(released: Released) -> str:
    """Return the size of the download for people; "-" for none, "?" if unknown."""
    size = released.download_bytes
    if size is None:
        return "?" if released.source.kind == "hub" else "-"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _common(family: Family, source: Source) -> str:
    low, high = family.input_range
    return f"{family.trained_on}; pixels in [{low:g}, {high:g}]; {_origin(source)}"


def _origin(source: Source) -> str:
    match source.kind:
        case "embedded":
            return "in the package"
        case "package":
            return "comes with hyperrule"
        case "bucket":
            return ".npz from BiT's public bucket"
        case "hub":
            return "from TF Hub"
        case "bring":
            return "never released: give --backbone the path of your .npz"


def _legend(shown: list[Released]) -> list[tuple[str, str]]:
    """Return label and text of each line below the tables."""
    titles: dict[tuple[str, str], list[str]] = {}
    for family in dict.fromkeys(released.family for released in shown):
        titles.setdefault((family.reference, family.licence), []).append(family.title)
    released = ZOO["bit-m-r50x1"] if ZOO["bit-m-r50x1"] in shown else shown[0]
    example = f"{released.name}.npz" if released.source.kind == "bring" else released.name
    return [
        ("px", "side of the images at the end of pretraining; fine-tuning chooses its own"),
        ("head", "classes of the pretrained head; fine-tuning replaces it with a new head"),
        ("download", "computed for .npz: 4 bytes per parameter, head included; ?: not published"),
        *(
            ("licence", f"{', '.join(families)}: {licence}; {reference}")
            for (reference, licence), families in titles.items()
        ),
        ("use", f"hyperrule finetune --dataset my_images --backbone {example}"),
        ("also", "--backbone takes any hub handle or URL, a SavedModel folder or .tar.gz, a BiT .npz, a run folder"),
    ]


@click.command("datasets", short_help="List what --dataset takes.")
@click.option("--json", "as_json", is_flag=True, help="Print the kinds as JSON.")
def datasets_command(as_json: bool) -> None:
    """List the kinds of labelled image data that --dataset takes, each with an example.

    \b
    Example:
      hyperrule check images.csv                 find what is wrong with the data
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
        "splits   --train-split, --validation-split and --test-split name a split, or give its expression for TFDS and",
        "         Hugging Face ('train[:98%]'); if there is only a training split, a fifth of each class is held out",
        "keys     --image-key and --label-key name the column, feature or field, if it is not the usual one",
        "images   JPEG, PNG, GIF, BMP and WebP, of any size",
        "same     equal images in equal classes and splits give equal runs, however they are stored",
    ):
        console.print(line, soft_wrap=True)


def _explained(kind: Kind) -> str:
    extra = f"; needs pip install 'hyperrule[{kind.extra}]'" if kind.extra else ""
    return f"{kind.explained}{extra}"


def _facts(kind: Kind) -> dict[str, str | None]:
    """Return the facts about a kind of data, for JSON."""
    return {"name": kind.name, "example": kind.typed, "description": kind.explained, "extra": kind.extra or None}


@click.command("recipes", short_help="List the recipes that come with the package.")
@click.option("--json", "as_json", is_flag=True, help="Print names, files and options as JSON.")
def recipes_command(as_json: bool) -> None:
    """List the shipped recipes, each with the command that runs it and the result it gave.

    \b
    Example:
      hyperrule finetune --recipe digits
    """
    if as_json:
        recipes = [
            {"name": name, "file": str(path), "options": load_recipe(name)} for name, path in shipped_recipes().items()
        ]
        click.echo(json.dumps(recipes, indent=2))
        return
    for name, path in shipped_recipes().items():
        header = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        click.echo(name)
        for line in header:
            click.echo(f"  {line}")


COMMANDS = (backbones_command, datasets_command, recipes_command)
