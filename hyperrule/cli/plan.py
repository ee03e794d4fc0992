"""`hyperrule plan`: shows what finetune would do, why, and what it would cost."""

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hyperrule.api import plan as make
from hyperrule.backbones.info import shown_range
from hyperrule.cli.options import collect, options_of
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.training_plan import TrainingPlan
from hyperrule.recipe import Recipe
from hyperrule.support.wording import duration, listed, printable


@click.command("plan", short_help="Show what finetune would do, why, and for how long.")
@options_of(Recipe)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan_command(recipe: str | None, assignments: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Show everything that finetune would do, each value with its reason and source.

    \b
    Example:
      hyperrule plan --dataset my_images --preset light
    """
    planned = make(**collect(recipe, assignments, flags))
    if as_json:
        click.echo(planned.model_dump_json(indent=2))
    else:
        render(planned)


def render(plan: Plan) -> None:
    """Print the plan as a table, then its cost."""
    console = _console()
    data, backbone = plan.dataset, plan.backbone
    console.print(
        f"data      {printable(data.name)}: {len(plan.class_names)} classes, {_sizes(plan)}, "
        f"median image {data.height} x {data.width} px"
    )
    first = listed(map(repr, data.class_names))
    console.print(f"classes   {first} (order: {data.class_order})")
    for note in data.notes:
        console.print(f"          {printable(note)}")
    for warning in data.warnings:
        console.print(f"warning   {printable(warning)}")
    if data.skipped:
        console.print(f"          {len(data.skipped)} images left out, listed in plan.json")
    size = f"{backbone.architecture}, {backbone.parameters / 1e6:.1f} M parameters"
    native = "native" if backbone.opaque is None else "opaque graph"
    pixels = f"{native}, pixels in {shown_range(backbone.input_range)}"
    console.print(f"backbone  {backbone.name}: {size}, {pixels}, {backbone.kind}: {backbone.origin}")
    for note in backbone.notes:
        console.print(f"          {note}")
    console.print()
    render_decisions(plan)
    if plan.deviations:
        console.print("* deviates from the BiT-HyperRule")
    console.print()
    render_estimate(plan)
    for suggestion in plan.faster:
        console.print(f"faster    {suggestion}")


def render_decisions(plan: TrainingPlan) -> None:
    """Print every value with its reason and source, as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("decision", "value", "why", "source"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "decision")
    for name, decided in plan.decisions.items():
        table.add_row(
            f"{'* ' if decided.deviates else '  '}{name.replace('_', ' ')}",
            _shown(decided.value),
            printable(decided.reason),
            decided.source,
        )
    _console().print(table)


def render_estimate(plan: TrainingPlan) -> None:
    """Print steps, images, time and memory."""
    console = _console()
    estimate = plan.estimate
    seconds = estimate.training_seconds
    time = f"about {duration(seconds)}" if seconds is not None else "time not known in advance"
    if seconds is not None and plan.recipe.budget is not None:
        time = f"{duration(plan.recipe.budget)} requested (the full schedule: {time})"
    if estimate.evaluation_seconds is not None:
        time += f", and {duration(estimate.evaluation_seconds)} for evaluation"
    console.print(
        f"cost      {estimate.steps} steps, {estimate.images} images, {time}, {estimate.memory / 2**30:.1f} GiB"
    )
    console.print(f"          ({estimate.basis})")


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 140
    return console


def _sizes(plan: Plan) -> str:
    return ", ".join(f"{info.examples} {split}" for split, info in plan.dataset.splits.items())


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "-"
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


COMMANDS = (plan_command,)
