"""`hyperrule finetune`: the main job."""

from typing import Any

import click

from hyperrule.api import finetune
from hyperrule.cli.options import collect, options_of
from hyperrule.cli.results import begun_or_resumed, render_result
from hyperrule.recipe import Recipe


@click.command("finetune", short_help="Train, evaluate exactly, export.")
@options_of(Recipe)
@click.option("--out", metavar="FOLDER", help="Run folder to make [runs/NAME].")
@click.option("--restartable", is_flag=True, help="Go on with the run in --out if it has begun: for schedulers.")
@click.option("--resume", "run", metavar="RUN", help="Go on with an unfinished run folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    recipe: str | None,
    assignments: tuple[str, ...],
    out: str | None,
    restartable: bool,
    run: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Fine-tune a backbone on labelled images, evaluate it exactly, and export a classifier.

    Options that are not given are decided by the rule; 'hyperrule plan' shows how.

    \b
    Examples:
      hyperrule finetune --dataset digits --budget 3m
      hyperrule finetune --dataset my_images --preset light --out runs/flowers
      hyperrule finetune --resume runs/flowers
    """
    options = collect(recipe, assignments, flags)
    render_result(begun_or_resumed(finetune, out, restartable, run, options), as_json)
