"""`hyperrule recipes`: the recipes that come with the package."""

import json

import click

from hyperrule.recipe import load_recipe, shipped_recipes


@click.command("recipes", short_help="The recipes that come with the package.")
@click.option("--json", "as_json", is_flag=True, help="Print names, files and options as JSON.")
def command(as_json: bool) -> None:
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
