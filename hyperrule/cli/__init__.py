"""The command line: parse, call the Python API, render. stdout is the result, stderr the progress."""

import importlib
import sys
from typing import Any

import click

from hyperrule import __version__
from hyperrule.errors import HyperruleError

COMMANDS = ("finetune", "plan", "recipes")


class Commands(click.Group):
    """Sub-commands by module name, imported when they are called; errors as one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"hyperrule.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HyperruleError as error:
            click.echo(f"hyperrule: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Fine-tune image classifiers by the BiT-HyperRule: point it at labelled images, get a classifier.

    \b
    Example:
      hyperrule plan --dataset my_images        what would run, why, and how long
      hyperrule finetune --dataset my_images    train, evaluate, export

    Exit codes: 0 done; 1 the work could not be finished; 2 the request cannot be met; 130 or 143
    stopped by a signal, resumable.
    """
