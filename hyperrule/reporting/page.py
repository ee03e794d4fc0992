"""Renders report.html of a finished run, and one page that compares several, from their folders alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from hyperrule.errors import RunFolderError
from hyperrule.pages.rendering import render
from hyperrule.planning.training_plan import Decided, TrainingPlan
from hyperrule.reporting.commands import asked_of, command_of, shown_value, snippets
from hyperrule.reporting.curves import curve, curves, overlaid
from hyperrule.reporting.finished_run import FinishedRun
from hyperrule.reporting.markdown import shown_decision

GENERATOR = "hyperrule report"
OVERLAID = (
    ("loss", "step", "Training loss"),
    ("learning_rate", "step", "Learning rate"),
    ("top1", "evaluation", "Accuracy during training"),
    ("top1_agreement", "evaluation", "Agreement during training"),
)


@dataclass(frozen=True)
class Difference:
    """A fact or decision that differs between runs; `by_run` has its value in each, as text."""

    name: str
    by_run: list[str]


def render_report(run: FinishedRun) -> str:
    """Return the HTML page of one run."""
    plan = run.plan
    return render(
        run.TEMPLATE,
        generator=GENERATOR,
        title=run.title,
        run=run,
        plan=plan,
        asked={name: shown_value(name, value) for name, value in asked_of(plan.recipe).items()},
        decisions=_decisions(plan),
        curves=curves(run.log),
        exports=run.exports,
        command=command_of(plan.recipe),
        hashes=plan.inputs,
        snippets=list(snippets(run.folder, classifier=bool(run.exports))),
        **run.page_values(),
    )


def render_comparison(runs: Sequence[FinishedRun]) -> str:
    """Return the HTML page that compares runs. Raises RunFolderError for runs of different kinds."""
    first = runs[0]
    for run in runs:
        if run.plan.job != first.plan.job:
            raise RunFolderError(
                f"{run.folder.path} is a {run.plan.KIND} and {first.folder.path} a {first.plan.KIND}: "
                "compare runs of one kind."
            )
    names = unique_names([run.folder.path for run in runs])
    values = {"rows": [], "measured": [], "agreements": [], "classes": []} | first.side_by_side(names, runs)
    return render(
        "reporting/comparison.html",
        generator=GENERATOR,
        title=", ".join(names),
        names=names,
        comparable=all(first.measured_on_the_same(run) for run in runs),
        differences=_differences(runs),
        curves=_curves(names, runs),
        **values,
    )


def unique_names(paths: Sequence[PurePath]) -> list[str]:
    """Return the last parts of the paths, or the full paths if those are not unique."""
    last = [path.name or str(path) for path in paths]
    return last if len(set(last)) == len(last) else [str(path) for path in paths]


def _decisions(plan: TrainingPlan) -> list[tuple[str, str, Decided[Any]]]:
    """Return name, value and decision of each; those that deviate from the rule come first."""
    rows = [(name, shown_decision(made.value), made) for name, made in plan.decisions.items()]
    return sorted(rows, key=lambda row: not row[2].deviates)


def _differences(runs: Sequence[FinishedRun]) -> list[Difference]:
    """Return what differs between the plans; data and backbone come first."""
    plans = [run.plan for run in runs]
    facts = {
        "data": [f"{plan.data_name} ({plan.data_sha256[:8]})" for plan in plans],
        "classes": [str(len(plan.class_names)) for plan in plans],
        "backbone": [plan.backbone.name for plan in plans],
        **{
            name: [shown_decision(plan.decisions[name].value) for plan in plans]
            for name in plans[0].decisions
            if all(name in plan.decisions for plan in plans)
        },
        **{name: [plan.versions.get(name, "") for plan in plans] for name in plans[0].versions},
    }
    return [Difference(name, values) for name, values in facts.items() if len(set(values)) > 1]


def _curves(names: Sequence[str], runs: Sequence[FinishedRun]) -> list[Markup]:
    figures = []
    for what, kind, title in OVERLAID:
        found = {name: curve(run.log, what, kind) for name, run in zip(names, runs, strict=True)}
        known = {name: points for name, points in found.items() if len(points[0])}
        if known:
            figures.append(overlaid(what.replace("_", "-"), title, known))
    return figures
