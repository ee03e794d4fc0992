"""Several finished runs on one page, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from markupsafe import Markup
from scipy.stats import binomtest

from hyperrule.errors import RunFolderError
from hyperrule.pages.rendering import render
from hyperrule.reporting.curves import curve, overlaid
from hyperrule.reporting.page import GENERATOR, LISTED_CLASSES, Figure, headline_figures, name_of, shown_decision
from hyperrule.reporting.read import DistilledRun, FinetunedRun

Run = FinetunedRun | DistilledRun
OVERLAID = (
    ("loss", "step", "Training loss"),
    ("learning_rate", "step", "Learning rate"),
    ("top1", "evaluation", "Accuracy on the way"),
    ("top1_agreement", "evaluation", "Agreement on the way"),
)


@dataclass(frozen=True)
class Against:
    """A run against the first, on the same test images: those that it alone names rightly, those that the first
    alone does, and how likely so uneven a division is by chance (McNemar's exact test)."""

    gained: int
    lost: int
    chance: float


@dataclass(frozen=True)
class Row:
    """A run on the page; `against` is None for the first and for runs on other data."""

    name: str
    data: str
    comparable: bool
    figures: dict[str, Figure]
    against: Against | None


@dataclass(frozen=True)
class Difference:
    """A figure or decision by run, as text."""

    name: str
    by_run: list[str]


@dataclass(frozen=True)
class ClassScores:
    """F1 of a class by run."""

    name: str
    f1: list[float]

    @property
    def spread(self) -> float:
        return max(self.f1) - min(self.f1)


def render_comparison(runs: Sequence[Run]) -> str:
    """HTML. Raises RunFolderError for runs of different kinds."""
    for run in runs:
        if type(run) is not type(runs[0]):
            raise RunFolderError(
                f"{run.folder.path} is a {_kind(run)} and {runs[0].folder.path} a {_kind(runs[0])}: "
                "give runs of one kind."
            )
    names = unique_names([run.folder.path for run in runs])
    finetuned = [run for run in runs if isinstance(run, FinetunedRun)]
    rows = [_row(name, run, finetuned[0]) for name, run in zip(names, finetuned, strict=False)]
    return render(
        "reporting/comparison.html",
        generator=GENERATOR,
        title=", ".join(names),
        names=names,
        rows=rows,
        measured=list(dict.fromkeys(name for row in rows for name in row.figures)),
        agreements=[run.agreements.overall for run in runs if isinstance(run, DistilledRun)],
        comparable=all(_same_data(runs[0], run) for run in runs),
        differences=_differences(runs),
        curves=_curves(names, runs),
        classes=_classes(finetuned),
    )


def unique_names(paths: Sequence[PurePath]) -> list[str]:
    """The last parts of the paths, or all of them where these are not different."""
    last = [path.name or str(path) for path in paths]
    return last if len(set(last)) == len(last) else [str(path) for path in paths]


def _kind(run: Run) -> str:
    return "fine-tuning" if isinstance(run, FinetunedRun) else "distillation"


def _same_data(one: Run, other: Run) -> bool:
    """Whether figures of both are of the same images."""
    if isinstance(one, FinetunedRun) and isinstance(other, FinetunedRun):
        mine, theirs = ((run.plan.dataset.sha256, run.plan.test_split.value) for run in (one, other))
        return mine == theirs
    return isinstance(one, DistilledRun) and isinstance(other, DistilledRun) and one.plan.pool == other.plan.pool


def _row(name: str, run: FinetunedRun, first: FinetunedRun) -> Row:
    comparable = _same_data(first, run)
    return Row(
        name=name,
        data=name_of(run.plan),
        comparable=comparable,
        figures={figure.name: figure for figure in headline_figures(run.metrics)},
        against=_against(run, first) if comparable and run is not first else None,
    )


def _against(run: FinetunedRun, first: FinetunedRun) -> Against:
    right = {one.id for one in first.predictions if one.correct}
    mine = {one.id for one in run.predictions if one.correct}
    gained, lost = len(mine - right), len(right - mine)
    chance = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Against(gained, lost, chance)


def _differences(runs: Sequence[Run]) -> list[Difference]:
    """What is not the same in all plans, the data and the backbone first."""
    plans = [run.plan for run in runs]
    told = {
        "data": list(map(_data, runs)),
        "classes": [str(len(plan.class_names)) for plan in plans],
        "backbone": [plan.backbone.name for plan in plans],
        **{
            name: [shown_decision(plan.decisions[name].value) for plan in plans]
            for name in plans[0].decisions
            if all(name in plan.decisions for plan in plans)
        },
        **{name: [plan.versions.get(name, "") for plan in plans] for name in plans[0].versions},
    }
    return [Difference(name, values) for name, values in told.items() if len(set(values)) > 1]


def _data(run: Run) -> str:
    """Its name, and the beginning of its hash."""
    if isinstance(run, FinetunedRun):
        return f"{name_of(run.plan)} ({run.plan.dataset.sha256[:8]})"
    return f"{', '.join(part.name for part in run.plan.pool.parts)} ({run.plan.pool.sha256[:8]})"


def _curves(names: Sequence[str], runs: Sequence[Run]) -> list[Markup]:
    figures = []
    for what, kind, title in OVERLAID:
        found = {name: curve(run.log, what, kind) for name, run in zip(names, runs, strict=True)}
        known = {name: points for name, points in found.items() if len(points[0])}
        if known:
            figures.append(overlaid(what.replace("_", "-"), title, known))
    return figures


def _classes(runs: Sequence[FinetunedRun]) -> list[ClassScores]:
    """By how far the runs are apart; none where their classes are not the same."""
    if not runs or any(run.plan.class_names != runs[0].plan.class_names for run in runs):
        return []
    scores = [
        ClassScores(name, [run.metrics.per_class[label].f1 for run in runs])
        for label, name in enumerate(runs[0].plan.class_names)
    ]
    return sorted(scores, key=lambda one: -one.spread)[:LISTED_CLASSES]
