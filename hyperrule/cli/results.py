"""Starts or resumes a run for a command, and prints its result: as text for people, as JSON for programs."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import resume
from hyperrule.errors import RecipeError
from hyperrule.planning.machine.cluster import this_cluster

if TYPE_CHECKING:
    from hyperrule.jobs.result import Result


def begun_or_resumed(
    begin: Callable[..., "Result"], out: str | None, restartable: bool, run: str | None, options: dict[str, Any]
) -> "Result":
    """Start a run, or resume the one in the folder `run` unless that is None, and return the result."""
    if run is None:
        return begin(out=out, restartable=restartable, **options)
    if out is not None or restartable:
        raise RecipeError("--resume uses its own run folder: set --resume, or --out with --restartable, not both.")
    return resume(run, **options)


def render_result(result: "Result", as_json: bool) -> None:
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
