"""`hyperrule finetune`: the main job."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import finetune, resume
from hyperrule.cli.options import collect, recipe_options
from hyperrule.errors import RecipeError
from hyperrule.planning.cluster import this_cluster

if TYPE_CHECKING:
    from hyperrule.job import Result


@click.command("finetune", short_help="Train, evaluate exactly, export.")
@recipe_options
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
    if run is None:
        result = finetune(out=out, restartable=restartable, **options)
    elif out is not None or restartable:
        raise RecipeError(
            "--resume goes on in its own run folder: give --resume, or --out with --restartable, not both."
        )
    else:
        result = resume(run, **options)
    if this_cluster().chief:
        _render(result, as_json)


def _render(result: "Result", as_json: bool) -> None:
    from hyperrule.summary import headline, result_json

    run = result.run
    if as_json:
        click.echo(result_json(result.plan, result.metrics, result.parity, run))
        return
    click.echo(headline(result.plan, result.metrics))
    click.echo(f"SavedModel  {run.saved_model}")
    click.echo(f"metrics     {run.eval_file}")
    click.echo(f"summary     {run.summary_file}")
    if result.plan.dataset.kind == "digits":
        click.echo(
            "next        hyperrule finetune --dataset FOLDER --budget 5m   (FOLDER/CLASS/*.jpg: your own images)"
        )
    else:
        again = f"hyperrule finetune --dataset {shlex.quote(str(Path(result.plan.recipe.dataset)))}"
        click.echo(f"next        {again}   (the whole rule, without shortcuts)" if result.plan.deviations else "")
