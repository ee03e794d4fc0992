"""`hyperrule launch`: finetune or distill as several processes, here or on several hosts."""

import shlex
import sys
from itertools import pairwise

import click

from hyperrule.errors import RecipeError
from hyperrule.training.launch.hosts import PORT, SSH, Worker, local_workers, remote_workers
from hyperrule.training.launch.supervise import supervise

TRAINING = ("finetune", "distill")
HYPERRULE = (sys.executable, "-m", "hyperrule")


@click.command(
    "launch",
    short_help="Train on several hosts, or as several processes.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--workers", "hosts", metavar="HOST1,HOST2", help="One process on each host, started through ssh.")
@click.option(
    "--local-workers", "count", type=int, metavar="N", help="N processes here that share GPUs or cores equally."
)
@click.option("--port", type=int, metavar="PORT", help=f"Port on which the workers of --workers listen [{PORT}].")
@click.option("--ssh", metavar="COMMAND", help=f"What 'COMMAND HOST COMMANDLINE' runs a command line with [{SSH}].")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- finetune|distill [OPTIONS]")
def command(hosts: str | None, count: int | None, port: int | None, ssh: str | None, command: tuple[str, ...]) -> None:
    """Run one 'hyperrule finetune' or 'distill' as several processes that train together.

    All GPUs of one machine need no launch: finetune takes them by itself. Hosts need a login by ssh without questions,
    and the same paths for this folder, the data and Python; the first is worker 0, which alone writes the run
    folder. Its output is shown as it is, what others report as '[worker 1] ...'. SLURM and Kubernetes start workers by
    themselves: see docs/machines.md.

    \b
    Examples:
      hyperrule launch --workers gpu1,gpu2 -- finetune --dataset photos --out runs/photos --restartable
      hyperrule launch --local-workers 2 -- finetune --dataset digits --steps 20 --json

    Exit codes: that of the first worker that failed; 128 + signal if one was killed. When one ends, so do all.
    """
    if not command or command[0] not in TRAINING:
        raise RecipeError(
            f"launch runs {' or '.join(TRAINING)} and nothing else, for nothing else has work for many: "
            "hyperrule launch ... -- finetune --dataset photos. "
            f"Received: {shlex.join(command) if command else 'nothing after --'}"
        )
    workers, options = _cluster(hosts, count, port, ssh)
    again = ["hyperrule", "launch", *options, "--", *_again(command)]
    code = supervise(workers, [*HYPERRULE, *command], shlex.join(again))
    click.get_current_context().exit(code)


def _cluster(hosts: str | None, count: int | None, port: int | None, ssh: str | None) -> tuple[list[Worker], list[str]]:
    """The workers, and the options that say so."""
    if (hosts is None) == (count is None):
        received = "neither" if hosts is None else "both"
        raise RecipeError(f"launch takes --workers HOST1,HOST2 or --local-workers N. Received: {received}")
    if hosts is not None:
        options = {"--workers": hosts, "--port": port, "--ssh": ssh}
        return remote_workers(hosts, PORT if port is None else port, SSH if ssh is None else ssh), _flags(options)
    if port is not None or ssh is not None:
        raise RecipeError(f"--{'ssh' if port is None else 'port'} goes with --workers; local workers find free ports.")
    assert count is not None
    return local_workers(count), _flags({"--local-workers": count})


def _flags(options: dict[str, str | int | None]) -> list[str]:
    return [part for flag, value in options.items() if value is not None for part in (flag, str(value))]


def _again(command: tuple[str, ...]) -> list[str]:
    """The command that goes on with a run; RUN where only the worker knows its folder."""
    if "--restartable" in command:
        return list(command)
    parts = [part for argument in command for part in argument.split("=", 1)]
    folders = [folder for flag, folder in pairwise(parts) if flag in ("--out", "--resume")]
    return [command[0], "--resume", folders[-1] if folders else "RUN"]
