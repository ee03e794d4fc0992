"""report.html of a finished run, from its folder alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hyperrule.evaluation.agreement import headline as distilled_headline
from hyperrule.evaluation.intervals import Interval, balanced, wilson
from hyperrule.evaluation.metrics import ClassMetrics, Metrics
from hyperrule.pages.rendering import percent, render
from hyperrule.planning.finetune import Plan
from hyperrule.planning.training_plan import Decided, TrainingPlan
from hyperrule.reporting.commands import asked_of, command_of, shown_value, snippets
from hyperrule.reporting.curves import curves
from hyperrule.reporting.figures import (
    NAMED,
    confusion_figure,
    coverage_curve,
    coverage_figure,
    most_confused,
    reliability_figure,
    thresholds,
)
from hyperrule.reporting.pictures import MISTAKES, read_pictures
from hyperrule.reporting.read import DistilledRun, FinetunedRun, read_run
from hyperrule.run_folder import RunFolder

GENERATOR = "hyperrule report"
LISTED_CLASSES = 200  # rows of the tables of classes
MARKED_ACCURACY = 0.99  # on the curve of coverage, or the highest below that can be had


@dataclass(frozen=True)
class Figure:
    """A number of the result, with its 95 % interval where there is one, and what it is."""

    name: str
    value: str
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class ClassRow:
    """Figures of the class of that number, and the 95 % interval of its recall."""

    number: int
    figures: ClassMetrics
    interval: Interval


def write_report(folder: RunFolder) -> None:
    """Raises RunFolderError if something is missing or damaged, RunError if the page cannot be written."""
    folder.write(folder.report_file, render_report(read_run(folder)))


def render_report(run: FinetunedRun | DistilledRun) -> str:
    """HTML."""
    return _finetuned(run) if isinstance(run, FinetunedRun) else _distilled(run)


def headline_figures(metrics: Metrics) -> list[Figure]:
    """Top-1 first; top-5 where there are more classes than that."""
    correct = sum(row[label] for label, row in enumerate(metrics.confusion))
    count, calibration = metrics.examples, metrics.calibration
    figures = [
        Figure("accuracy", percent(metrics.top1), wilson(correct, count), f"{correct:,} of {count:,} images"),
        Figure(
            "balanced accuracy",
            percent(metrics.balanced_accuracy),
            balanced(metrics.per_class),
            "mean over classes",
        ),
    ]
    if len(metrics.per_class) > 5:
        among = round(metrics.top5 * count)
        figures.append(Figure("top-5 accuracy", percent(metrics.top5), wilson(among, count)))
    if calibration is not None:
        told = f"{percent(calibration.before.ece)} before calibration"
        figures.append(Figure("calibration error", percent(calibration.after.ece), note=told))
    else:
        figures.append(Figure("loss", f"{metrics.loss:.3f}", note="cross-entropy, nats"))
    return figures


def name_of(plan: Plan) -> str:
    """What to call the data: of a path its last part."""
    name = plan.dataset.name
    return name if plan.dataset.location is None else PurePath(name).name or name


def shown_decision(value: Any) -> str:
    """
    >>> shown_decision(True), shown_decision(None), shown_decision(0.003), shown_decision((1, 2))
    ('yes', 'none', '0.003', '1, 2')
    """
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case int() | float():
            return f"{value:,}" if isinstance(value, int) else f"{value:g}"
        case tuple():
            return ", ".join(map(shown_decision, value))
        case _:
            return str(value)


def _finetuned(run: FinetunedRun) -> str:
    plan, metrics = run.plan, run.metrics
    pictures = read_pictures(run.folder)
    mistakes = sorted((one for one in run.predictions if not one.correct), key=lambda one: -one.score)
    coverage = coverage_curve(run.predictions)
    reached = thresholds(coverage, metrics.examples)
    calibration = metrics.calibration
    judged = {} if calibration is None else {"before": calibration.before, "after": calibration.after}
    return render(
        "reporting/finetuned.html",
        **_common(run),
        title=name_of(plan),
        metrics=metrics,
        figures=headline_figures(metrics),
        splits={split: info.per_class for split, info in plan.dataset.splits.items()},
        listed_classes=LISTED_CLASSES,
        pictures=pictures,
        classes=_by_f1(metrics)[:LISTED_CLASSES],
        numbered=len(metrics.per_class) > NAMED,
        confusion=confusion_figure(metrics),
        confused=most_confused(metrics),
        mistakes=mistakes[:MISTAKES],
        mistake_count=len(mistakes),
        reliability=[reliability_figure(when, one) for when, one in judged.items()],
        coverage=coverage_figure(coverage, next((one for one in reached[::-1] if one.target <= MARKED_ACCURACY), None)),
        thresholds=reached,
    )


def _distilled(run: DistilledRun) -> str:
    overall = run.agreements.overall
    return render(
        "reporting/distilled.html",
        **_common(run),
        title=f"{run.plan.backbone.architecture}, taught by {run.plan.teacher.name}",
        headline=distilled_headline(overall),
        agreements=(overall, *run.agreements.by_data_set),
    )


def _common(run: FinetunedRun | DistilledRun) -> dict[str, Any]:
    """What both kinds of page show."""
    plan = run.plan
    return {
        "generator": GENERATOR,
        "run": run,
        "plan": plan,
        "asked": {name: shown_value(name, value) for name, value in asked_of(plan.recipe).items()},
        "decisions": _decisions(plan),
        "curves": curves(run.log),
        "exports": run.exports,
        "command": command_of(plan.recipe),
        "hashes": _hashes(run),
        "snippets": list(snippets(run.folder, classifier=bool(run.exports))),
    }


def _decisions(plan: TrainingPlan) -> list[tuple[str, str, Decided[Any]]]:
    """Name, value and the decision itself; what departs from the rule comes first."""
    rows = [(name, shown_decision(made.value), made) for name, made in plan.decisions.items()]
    return sorted(rows, key=lambda row: not row[2].deviates)


def _hashes(run: FinetunedRun | DistilledRun) -> Mapping[str, str]:
    """What went in, by SHA-256."""
    plan, found = run.plan, {}
    if isinstance(run, FinetunedRun):
        found[f"data set {run.plan.dataset.name}"] = run.plan.dataset.sha256
    else:
        found |= {f"data set {part.name}": part.sha256 for part in run.plan.pool.parts}
        found[f"teacher {run.plan.teacher.name}"] = run.plan.teacher.backbone.sha256 or "random weights"
    found[f"backbone {plan.backbone.name}"] = plan.backbone.sha256 or "random weights"
    return found


def _by_f1(metrics: Metrics) -> Sequence[ClassRow]:
    """The weakest first; classes without a test image last."""
    rows = [
        ClassRow(label, known, wilson(metrics.confusion[label][label], known.examples))
        for label, known in enumerate(metrics.per_class)
    ]
    return sorted(rows, key=lambda row: (row.figures.examples == 0, row.figures.f1))
