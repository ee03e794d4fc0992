"""`hyperrule distill`: a student learns to be like its teacher."""

from typing import Any

import click

from hyperrule.api import distill, plan_distillation
from hyperrule.cli.options import collect, options_of
from hyperrule.cli.plan import render_decisions, render_estimate
from hyperrule.cli.results import begun_or_resumed, render_result
from hyperrule.errors import RecipeError
from hyperrule.planning.distill import DistillPlan
from hyperrule.recipe import DistillRecipe
from hyperrule.support.wording import printable


@click.command("distill", short_help="Train a small BiT to be like a large network, without labels.")
@options_of(DistillRecipe)
@click.option("--out", metavar="FOLDER", help="Run folder to make [runs/NAME].")
@click.option("--restartable", is_flag=True, help="Go on with the run in --out if it has begun: for schedulers.")
@click.option("--resume", "run", metavar="RUN", help="Go on with an unfinished run folder.")
@click.option("--dry-run", is_flag=True, help="Show the plan, each value with its reason, and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the plan, as JSON.")
def command(
    recipe: str | None,
    assignments: tuple[str, ...],
    out: str | None,
    restartable: bool,
    run: str | None,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Distill by function matching: teacher and student see the same crops and blends, and the student learns to say
    what the teacher says. Labels are not used. Options that are not given are as in arXiv 2106.05237.

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
        click.echo(planned.model_dump_json(indent=2)) if as_json else _render_plan(planned)
        return
    render_result(begun_or_resumed(distill, out, restartable, run, options), as_json)


def _render_plan(plan: DistillPlan) -> None:
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
