"""`hyperrule finetune`, `distill` and `launch`: the commands that train, here or on several hosts."""

import json
import shlex
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import distill, finetune, plan_distillation, resume
from hyperrule.cli.options import collect, options_of
from hyperrule.cli.plan import render_decisions, render_estimate
from hyperrule.errors import RecipeError
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.machine.cluster import this_cluster
from hyperrule.recipe import DistillRecipe, Recipe
from hyperrule.support.wording import printable
from hyperrule.training.launch.hosts import PORT, SSH, Worker, local_workers, remote_workers
from hyperrule.training.launch.supervise import supervise

if TYPE_CHECKING:
    from hyperrule.jobs.result import Result


@click.command("finetune", short_help="Train, evaluate exactly, export.")
@options_of(Recipe)
@click.option("--out", metavar="FOLDER", help="Run folder to create [runs/NAME].")
@click.option("--restartable", is_flag=True, help="Resume the run in --out if it exists already: for schedulers.")
@click.option("--resume", "run", metavar="RUN", help="Resume an unfinished run folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def finetune_command(
    recipe: str | None,
    assignments: tuple[str, ...],
    out: str | None,
    restartable: bool,
    run: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Fine-tune a backbone on labelled images, evaluate it exactly, and export a classifier.

    The rule decides options that are not set; 'hyperrule plan' shows how.

    \b
    Examples:
      hyperrule finetune --dataset digits --budget 3m
      hyperrule finetune --dataset my_images --preset light --out runs/flowers
      hyperrule finetune --resume runs/flowers
    """
    options = collect(recipe, assignments, flags)
    _render_result(_begun_or_resumed(finetune, out, restartable, run, options), as_json)


@click.command("distill", short_help="Train a small BiT to imitate a large network, without labels.")
@options_of(DistillRecipe)
@click.option("--out", metavar="FOLDER", help="Run folder to create [runs/NAME].")
@click.option("--restartable", is_flag=True, help="Resume the run in --out if it exists already: for schedulers.")
@click.option("--resume", "run", metavar="RUN", help="Resume an unfinished run folder.")
@click.option("--dry-run", is_flag=True, help="Show the plan, each value with its reason, and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the plan, as JSON.")
def distill_command(
    recipe: str | None,
    assignments: tuple[str, ...],
    out: str | None,
    restartable: bool,
    run: str | None,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Distill by function matching: teacher and student see the same crops and mixed images, and the student learns to
    give the teacher's outputs. Labels are not used. Options that are not set follow arXiv 2106.05237.

    \b
    Examples:
      hyperrule distill --teacher efficientnet-lite0 --student r26x0.5 --dataset photos --dry-run
      hyperrule distill --teacher runs/flowers --student bit-m-r50x1 --dataset flowers --epochs 300
      hyperrule distill --recipe distill/embedded --out runs/embedded
      hyperrule distill --resume runs/embedded
    """
    options = collect(recipe, assignments, flags)
    if dry_run:
        if run is not None or out is not None:
            raise RecipeError("--dry-run shows the plan of a new run: leave out --resume and --out.")
        planned = plan_distillation(**options)
        click.echo(planned.model_dump_json(indent=2)) if as_json else _render_distill_plan(planned)
        return
    _render_result(_begun_or_resumed(distill, out, restartable, run, options), as_json)


def _render_distill_plan(plan: DistillPlan) -> None:
    for part in plan.pool.parts:
        click.echo(f"data      {printable(part.name)}: {part.kind}, {part.examples} images, {part.held_out} held out")
    for warning in plan.warnings:
        click.echo(f"warning   {printable(warning)}")
    teacher, student = plan.teacher, plan.backbone
    gives = f"{teacher.classes} classes" if teacher.classes else f"{teacher.features} features"
    click.echo(f"teacher   {teacher.name}: {gives}, {teacher.backbone.parameters / 1e6:.1f} M parameters")
    click.echo(f"student   {student.name}: {student.architecture}, {student.parameters / 1e6:.1f} M parameters")
    click.echo()
    render_decisions(plan)
    click.echo()
    render_estimate(plan)


def _begun_or_resumed(
    begin: Callable[..., "Result"], out: str | None, restartable: bool, run: str | None, options: dict[str, Any]
) -> "Result":
    """Start a run, or resume the one in the folder `run` unless that is None, and return the result."""
    if run is None:
        return begin(out=out, restartable=restartable, **options)
    if out is not None or restartable:
        raise RecipeError("--resume uses its own run folder: set --resume, or --out with --restartable, not both.")
    return resume(run, **options)


def _render_result(result: "Result", as_json: bool) -> None:
    """Print the result; on workers other than the chief, nothing."""
    if not this_cluster().chief:
        return
    if as_json:
        click.echo(json.dumps(result.facts, indent=2))
        return
    click.echo(result.headline)
    for what, file in result.files.items():
        click.echo(f"{what:<12}{file}")
    if result.next_step:
        click.echo(f"{'next':<12}{result.next_step}")


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
@click.option("--ssh", metavar="COMMAND", help=f"Program run as 'COMMAND HOST COMMANDLINE' [{SSH}].")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- finetune|distill [OPTIONS]")
def launch_command(
    hosts: str | None, count: int | None, port: int | None, ssh: str | None, command: tuple[str, ...]
) -> None:
    """Run one 'hyperrule finetune' or 'distill' as several processes that train together.

    For all GPUs of one machine no launch is needed: finetune uses them by itself. Hosts must allow ssh without a
    password, and have this folder, the data and Python under the same paths. The first host runs worker 0, which alone
    writes the run folder. Its output is shown unchanged, that of others as '[worker 1] ...'. SLURM and Kubernetes start
    workers by themselves: see docs/machines.md.

    \b
    Examples:
      hyperrule launch --workers gpu1,gpu2 -- finetune --dataset photos --out runs/photos --restartable
      hyperrule launch --local-workers 2 -- finetune --dataset digits --steps 20 --json

    Exit codes: that of the first worker that failed; 128 + signal if it was killed. When one worker fails, all end.
    """
    if not command or command[0] not in TRAINING:
        raise RecipeError(
            f"launch runs {' or '.join(TRAINING)} only, such as "
            "hyperrule launch ... -- finetune --dataset photos. "
            f"Received: {shlex.join(command) if command else 'nothing after --'}"
        )
    workers, options = _launched(hosts, count, port, ssh)
    again = ["hyperrule", "launch", *options, "--", *_again(command)]
    code = supervise(workers, [*HYPERRULE, *command], shlex.join(again))
    click.get_current_context().exit(code)


def _launched(
    hosts: str | None, count: int | None, port: int | None, ssh: str | None
) -> tuple[list[Worker], list[str]]:
    """Return the workers, and the options of launch that describe them."""
    if (hosts is None) == (count is None):
        received = "neither" if hosts is None else "both"
        raise RecipeError(f"launch takes --workers HOST1,HOST2 or --local-workers N. Received: {received}")
    if hosts is not None:
        options = {"--workers": hosts, "--port": port, "--ssh": ssh}
        return remote_workers(hosts, PORT if port is None else port, SSH if ssh is None else ssh), _as_flags(options)
    if port is not None or ssh is not None:
        raise RecipeError(f"--{'ssh' if port is None else 'port'} goes with --workers; local workers find free ports.")
    assert count is not None
    return local_workers(count), _as_flags({"--local-workers": count})


def _as_flags(options: dict[str, str | int | None]) -> list[str]:
    return [part for flag, value in options.items() if value is not None for part in (flag, str(value))]


def _again(command: tuple[str, ...]) -> list[str]:
    """Return the command that resumes the run; RUN stands for a folder that only the worker knows."""
    if "--restartable" in command:
        return list(command)
    parts = [part for argument in command for part in argument.split("=", 1)]
    folders = [folder for flag, folder in pairwise(parts) if flag in ("--out", "--resume")]
    return [command[0], "--resume", folders[-1] if folders else "RUN"]


COMMANDS = (finetune_command, distill_command, launch_command)
