"""A run begun or gone on with by a command, and its result in a line, for people, and as JSON, for programs."""

import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import resume
from hyperrule.errors import RecipeError
from hyperrule.evaluation.agreement import Agreement
from hyperrule.evaluation.metrics import Metrics
from hyperrule.exporting.parity import Parity
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.finetune import Plan
from hyperrule.planning.machine.cluster import this_cluster
from hyperrule.run_folder import RunFolder

if TYPE_CHECKING:
    from hyperrule.jobs.distill.job import Distilled
    from hyperrule.jobs.finetune import Result


def distillation_json(plan: DistillPlan, overall: Agreement, parity: Parity | None, run: RunFolder) -> str:
    """The result for programs."""
    figures = {
        "run": str(run.path),
        "weights": str(run.weights_file),
        "saved_model": None if parity is None else str(run.saved_model),
        "eval": str(run.eval_file),
        "report": str(run.report_file),
        "model_card": str(run.card_file),
        "steps": plan.steps,
        **overall.model_dump(exclude={"name"}),
        "parity": None if parity is None else parity.model_dump(),
    }
    return json.dumps(figures, indent=2)


def begun_or_resumed(
    begin: Callable[..., Any], out: str | None, restartable: bool, run: str | None, options: dict[str, Any]
) -> Any:
    """The result of a new run, or of the one in the folder `run` when it has been gone on with."""
    if run is None:
        return begin(out=out, restartable=restartable, **options)
    if out is not None or restartable:
        raise RecipeError(
            "--resume goes on in its own run folder: give --resume, or --out with --restartable, not both."
        )
    return resume(run, **options)


def render_result(result: "Result | Distilled", as_json: bool) -> None:
    """Print the result, on the chief alone."""
    if not this_cluster().chief:
        return
    if isinstance(result.plan, Plan):
        _render_finetuned(result, as_json)
    else:
        _render_distilled(result, as_json)


def _render_finetuned(result: "Result", as_json: bool) -> None:
    from hyperrule.evaluation.metrics import headline

    run = result.run
    if as_json:
        click.echo(result_json(result.plan, result.metrics, result.parity, run))
        return
    click.echo(headline(result.plan, result.metrics))
    click.echo(f"SavedModel  {run.saved_model}")
    click.echo(f"metrics     {run.eval_file}")
    click.echo(f"report      {run.report_file}")
    if result.plan.dataset.kind == "digits":
        click.echo(
            "next        hyperrule finetune --dataset FOLDER --budget 5m   (FOLDER/CLASS/*.jpg: your own images)"
        )
    elif result.plan.deviations:
        again = f"hyperrule finetune --dataset {shlex.quote(result.plan.recipe.dataset)}"
        click.echo(f"next        {again}   (the whole rule, without shortcuts)")


def _render_distilled(result: "Distilled", as_json: bool) -> None:
    from hyperrule.evaluation.agreement import headline

    run, overall = result.run, result.agreements.overall
    if as_json:
        click.echo(distillation_json(result.plan, overall, result.parity, run))
        return
    click.echo(headline(overall))
    click.echo(f"weights     {run.weights_file}")
    if result.parity is not None:
        click.echo(f"SavedModel  {run.saved_model}")
    click.echo(f"agreement   {run.eval_file}")
    click.echo(f"report      {run.report_file}")
    click.echo(f"next        hyperrule finetune --backbone {shlex.quote(str(run.path))} --dataset FOLDER")


def result_json(plan: Plan, metrics: Metrics, parity: Parity, run: RunFolder) -> str:
    """The result for programs: where everything is, and the figures without per-class detail."""
    return json.dumps(
        {
            "run": str(run.path),
            "saved_model": str(run.saved_model),
            "eval": str(run.eval_file),
            "report": str(run.report_file),
            "model_card": str(run.card_file),
            "steps": plan.schedule.value.steps,
            **metrics.model_dump(exclude={"per_class", "confusion"}),
            "parity": parity.model_dump(),
        },
        indent=2,
    )
