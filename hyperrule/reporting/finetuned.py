"""The texts and figures on pages and cards of a fine-tuning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow.parquet as pq
from scipy.stats import binomtest

from hyperrule.evaluation.intervals import Interval, balanced, wilson
from hyperrule.evaluation.metrics import ClassMetrics, Metrics, headline
from hyperrule.exporting.parity import read_parities
from hyperrule.pages.rendering import percent
from hyperrule.planning.finetune_plan import Plan
from hyperrule.reporting.figures import (
    NAMED,
    confusion_figure,
    coverage_curve,
    coverage_figure,
    most_confused,
    reliability_figure,
    thresholds,
)
from hyperrule.reporting.finished_run import FinishedRun, Prediction, damage, read_log
from hyperrule.reporting.markdown import between, bullets, deviations, percentage, sentence, skipped_images, table
from hyperrule.reporting.pictures import MISTAKES, read_pictures
from hyperrule.run_folder import RunFolder
from hyperrule.support.wording import escape_markdown, number

LISTED_CLASSES = 200  # rows of the tables of classes
MARKED_ACCURACY = 0.99  # marked on the curve of coverage; the highest target below it if it is not reached
WEAKEST = 5  # classes shown on a card


@dataclass(frozen=True)
class Figure:
    """A figure of the result: its name, its value as text, its 95 % interval if there is one, and a note."""

    name: str
    value: str
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class Against:
    """A run compared with the first on the same test images.

    `gained` images are correct in this run only, `lost` in the first only. `chance` is the p-value of McNemar's exact
    test: the probability of so uneven a division between equally good runs.
    """

    gained: int
    lost: int
    chance: float


@dataclass(frozen=True)
class Row:
    """A run in the table of results; `against` is None for the first run and for runs on other data."""

    name: str
    data: str
    comparable: bool
    figures: dict[str, Figure]
    against: Against | None


@dataclass(frozen=True)
class ClassScores:
    """The F1 scores of a class, one for each run."""

    name: str
    f1: list[float]

    @property
    def spread(self) -> float:
        return max(self.f1) - min(self.f1)


def compare(mine: Sequence[Prediction], first: Sequence[Prediction]) -> Against:
    """Compare the predictions of a run with those of the first run, on the same images."""
    right = {one.id for one in first if one.correct}
    right_here = {one.id for one in mine if one.correct}
    gained, lost = len(right_here - right), len(right - right_here)
    chance = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Against(gained, lost, chance)


def class_scores(metrics: Sequence[Metrics]) -> list[ClassScores]:
    """Return the scores of each class, those that differ most first. All runs have the same classes."""
    scores = [
        ClassScores(of_class[0].name, [one.f1 for one in of_class])
        for of_class in zip(*(one.per_class for one in metrics), strict=True)
    ]
    return sorted(scores, key=lambda one: -one.spread)[:LISTED_CLASSES]


@dataclass(frozen=True)
class FinetunedRun(FinishedRun):
    plan: Plan
    metrics: Metrics
    predictions: tuple[Prediction, ...]

    TEMPLATE: ClassVar = "reporting/finetuned.html"

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        plan, exports = folder.read_plan_of(Plan), tuple(read_parities(folder.parity_file).values())
        with damage(folder.eval_file):
            metrics = Metrics.model_validate_json(folder.eval_file.read_text(encoding="utf-8"))
        log = read_log(folder)
        with damage(folder.eval_file):
            if tuple(known.name for known in metrics.per_class) != plan.class_names:
                raise ValueError("its classes are not those of plan.json")
            if metrics.examples == 0 or len(metrics.confusion) != len(plan.class_names):
                raise ValueError("its figures are not complete")
        with damage(folder.predictions_file):
            predictions = _read_predictions(folder.predictions_file)
            if len(predictions) != metrics.examples:
                raise ValueError(f"it has {len(predictions)} rows, eval.json {metrics.examples} examples")
        return cls(folder, plan, log, exports, metrics, predictions)

    @property
    def is_classifier(self) -> bool:
        return True

    @property
    def title(self) -> str:
        return self.plan.data_name

    @property
    def headline(self) -> str:
        return headline(self.plan, self.metrics)

    def page_values(self) -> dict[str, Any]:
        plan, metrics = self.plan, self.metrics
        mistakes = sorted((one for one in self.predictions if not one.correct), key=lambda one: -one.score)
        coverage = coverage_curve(self.predictions)
        reached = thresholds(coverage, metrics.examples)
        marked = next((one for one in reached[::-1] if one.target <= MARKED_ACCURACY), None)
        calibration = metrics.calibration
        judged = {} if calibration is None else {"before": calibration.before, "after": calibration.after}
        return {
            "metrics": metrics,
            "figures": headline_figures(metrics),
            "splits": {split: info.per_class for split, info in plan.dataset.splits.items()},
            "listed_classes": LISTED_CLASSES,
            "pictures": read_pictures(self.folder),
            "classes": _by_f1(metrics)[:LISTED_CLASSES],
            "numbered": len(metrics.per_class) > NAMED,
            "confusion": confusion_figure(metrics),
            "confused": most_confused(metrics),
            "mistakes": mistakes[:MISTAKES],
            "mistake_count": len(mistakes),
            "reliability": [reliability_figure(when, one) for when, one in judged.items()],
            "coverage": coverage_figure(coverage, marked),
            "thresholds": reached,
        }

    def front_matter(self) -> dict[str, Any]:
        results = [_result(self.plan, self.metrics)]
        return {
            "metrics": ["accuracy"],
            "model-index": [{"name": self.folder.path.resolve().name, "results": results}],
        }

    def card_sections(self, trained: str) -> Iterator[str]:
        plan, metrics = self.plan, self.metrics
        yield f"# {escape_markdown(plan.data_name)}, fine-tuned from {escape_markdown(plan.backbone.name)}"
        yield f"{sentence(self.headline)}."
        correct = sum(row[label] for label, row in enumerate(metrics.confusion))
        yield (
            f"Measured on {number(metrics.examples, 'image')}, the accuracy on all images like them is from "
            f"{between(wilson(correct, metrics.examples))}, balanced over classes "
            f"{between(balanced(metrics.per_class))} (95 % intervals)."
        )
        yield (
            f"An image classifier of {number(len(plan.class_names), 'class')}: {plan.backbone.architecture} "
            f"({plan.backbone.parameters / 1e6:.1f} M parameters) with a new head, fine-tuned by the BiT-HyperRule on "
            f"{number(plan.examples.value, 'image')}. {trained} `report.html` shows the data, the training "
            "curves, every class, the mistakes and their confidence."
        )
        if metrics.kept is not None:
            yield f"{sentence(str(metrics.kept))}."
        yield from deviations(plan)
        yield "## Intended use and limits"
        yield _limits(plan, metrics)
        yield from _data_notes(plan)
        yield from _weakest(metrics)
        yield from _calibration(metrics)

    def measured_on_the_same(self, other: Self) -> bool:
        mine, theirs = ((run.plan.dataset.sha256, run.plan.test_split.value) for run in (self, other))
        return mine == theirs

    @classmethod
    def side_by_side(cls, names: Sequence[str], runs: Sequence[Self]) -> dict[str, Any]:
        rows = [_row(name, run, runs[0]) for name, run in zip(names, runs, strict=True)]
        same_classes = all(run.plan.class_names == runs[0].plan.class_names for run in runs)
        return {
            "rows": rows,
            "measured": list(dict.fromkeys(name for row in rows for name in row.figures)),
            "classes": class_scores([run.metrics for run in runs]) if same_classes else [],
        }


@dataclass(frozen=True)
class ClassRow:
    """The figures of class `number`, and the 95 % interval of its recall."""

    number: int
    figures: ClassMetrics
    interval: Interval


def _read_predictions(file: Path) -> tuple[Prediction, ...]:
    columns = pq.read_table(file, columns=["id", "label", "predicted", "score"]).to_pydict()
    return tuple(map(Prediction, *(columns[name] for name in ("id", "label", "predicted", "score"))))


def headline_figures(metrics: Metrics) -> list[Figure]:
    """Return the main figures, top-1 first; top-5 is left out for 5 classes or fewer."""
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
        text = f"{percent(calibration.before.ece)} before calibration"
        figures.append(Figure("calibration error", percent(calibration.after.ece), note=text))
    else:
        figures.append(Figure("loss", f"{metrics.loss:.3f}", note="cross-entropy, nats"))
    return figures


def _row(name: str, run: FinetunedRun, first: FinetunedRun) -> Row:
    comparable = run.measured_on_the_same(first)
    return Row(
        name=name,
        data=run.plan.data_name,
        comparable=comparable,
        figures={figure.name: figure for figure in headline_figures(run.metrics)},
        against=compare(run.predictions, first.predictions) if comparable and run is not first else None,
    )


def _by_f1(metrics: Metrics) -> Sequence[ClassRow]:
    """Return the classes by F1, the weakest first; classes without a test image come last."""
    rows = [
        ClassRow(label, known, wilson(metrics.confusion[label][label], known.examples))
        for label, known in enumerate(metrics.per_class)
    ]
    return sorted(rows, key=lambda row: (row.figures.examples == 0, row.figures.f1))


def _result(plan: Plan, metrics: Metrics) -> dict[str, Any]:
    figures = {"accuracy": metrics.top1, "balanced_accuracy": metrics.balanced_accuracy, "loss": metrics.loss}
    if len(plan.class_names) > 5:
        figures["top_5_accuracy"] = metrics.top5
    if metrics.calibration is not None:
        figures["expected_calibration_error"] = metrics.calibration.after.ece
    return {
        "task": {"type": "image-classification"},
        "dataset": {
            "name": plan.data_name,
            "type": plan.dataset.kind.replace(" ", "-"),
            "split": plan.test_split.value,
        },
        "metrics": [{"type": name, "value": round(value, 6)} for name, value in figures.items()],
    }


def _limits(plan: Plan, metrics: Metrics) -> str:
    most = max(plan.dataset.splits["train"].per_class)
    fewest = min(plan.dataset.splits["train"].per_class)
    text = (
        f"For images like those of {escape_markdown(plan.data_name)}, each of which shows one "
        f"of its {number(len(plan.class_names), 'class')}: the classifier names one of these for any image. "
        f"It was trained on {number(plan.examples.value, 'image')} and measured on "
        f"{number(metrics.examples, 'image')} ({escape_markdown(plan.test_split.reason)}), once, and on nothing else: "
        "not on other cameras, places or times, nor on images that were altered on purpose, nor for groups of people. "
        f"Images are resized to {plan.evaluation_size.value} x {plan.evaluation_size.value} pixels, so small "
        "details are lost. The backbone may have learned biases from its own training data."
    )
    if most >= 2 * fewest:
        text += f" Classes are imbalanced: the training split has {fewest:,} to {most:,} images per class."
    if absent := sum(known.examples == 0 for known in metrics.per_class):
        text += f" For {number(absent, 'class')} there was no test image."
    return text


def _data_notes(plan: Plan) -> Iterator[str]:
    yield from skipped_images(plan.dataset.skipped)
    if plan.dataset.warnings:
        yield "## Warnings about the data"
        yield bullets(map(escape_markdown, plan.dataset.warnings))


def _weakest(metrics: Metrics) -> Iterator[str]:
    present = sorted((known for known in metrics.per_class if known.examples), key=lambda known: known.f1)
    yield "## Weakest classes"
    yield table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [
                escape_markdown(one.name),
                str(one.examples),
                *(f"{value:.3f}" for value in (one.precision, one.recall, one.f1)),
            ]
            for one in present[:WEAKEST]
        ],
    )


def _calibration(metrics: Metrics) -> Iterator[str]:
    if (found := metrics.calibration) is None:
        return
    yield "## Calibration"
    tried = f"{found.examples:,} images of {found.fitted_on}"
    if found.temperature == 1:
        yield (
            f"Probabilities are softmax(logits): a temperature, tried on {tried}, would not reduce the expected "
            f"calibration error of {percentage(found.after.ece)}."
        )
        return
    yield (
        f"Probabilities are softmax(logits / {found.temperature:.4f}), fitted on {tried}. Expected calibration error "
        f"{percentage(found.before.ece)} before, {percentage(found.after.ece)} after; loss {found.before.loss:.4f} and "
        f"{found.after.loss:.4f}."
    )
