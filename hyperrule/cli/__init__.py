"""The command line: parses, calls the Python API and prints. stdout is the result, stderr the progress."""

import sys
from collections.abc import Callable
from typing import Any

import click

from hyperrule import __version__
from hyperrule.errors import HyperruleError
from hyperrule.support.wording import did_you_mean, printable

Loaded = tuple[click.Command, ...]


def _training() -> Loaded:
    from hyperrule.cli import training

    return training.COMMANDS


def _plan() -> Loaded:
    from hyperrule.cli import plan

    return plan.COMMANDS


def _audit() -> Loaded:
    from hyperrule.cli import audit

    return audit.COMMANDS


def _classifiers() -> Loaded:
    from hyperrule.cli import classifiers

    return classifiers.COMMANDS


def _bench() -> Loaded:
    from hyperrule.cli import bench

    return bench.COMMANDS


def _catalogue() -> Loaded:
    from hyperrule.cli import catalogue

    return catalogue.COMMANDS


def _doctor() -> Loaded:
    from hyperrule.cli import doctor

    return doctor.COMMANDS


COMMANDS: dict[str, Callable[[], Loaded]] = {
    "backbones": _catalogue,
    "bench": _bench,
    "check": _audit,
    "datasets": _catalogue,
    "distill": _training,
    "doctor": _doctor,
    "evaluate": _classifiers,
    "export": _classifiers,
    "finetune": _training,
    "label-errors": _audit,
    "launch": _training,
    "learning-curve": _audit,
    "plan": _plan,
    "port": _classifiers,
    "predict": _classifiers,
    "recipes": _catalogue,
    "report": _classifiers,
}


class Commands(click.Group):
    """The sub-commands. Each module is imported when its command is called; every error is one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            ctx.fail(f"no such command {cmd_name!r}. Allowed: {', '.join(COMMANDS)}.{did_you_mean(cmd_name, COMMANDS)}")
        return next(command for command in COMMANDS[cmd_name]() if command.name == cmd_name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except HyperruleError as error:
            code = _failed(str(error), error.exit_code)
        except click.ClickException as error:
            code = _failed(error.format_message(), 2)
        except (click.Abort, KeyboardInterrupt):
            code = _failed("stopped by SIGINT before there was a result", 130)
        sys.exit(code)


def _failed(message: str, exit_code: int) -> int:
    click.echo(f"hyperrule: {printable(' '.join(message.split()))}", err=True)
    return exit_code


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """Fine-tune image classifiers with the BiT-HyperRule: labelled images in, a classifier out.

    \b
    Example:
      hyperrule plan --dataset my_images        show what would run, why, and for how long
      hyperrule finetune --dataset my_images    train, evaluate, export

    Exit codes: 0 done; 1 the work could not be finished; 2 the request cannot be met; 130 or 143
    stopped by a signal, can be resumed.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
