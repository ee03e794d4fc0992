"""model_card.md in the form that Hugging Face's hub reads: front matter with the figures, then text for people.

Form: https://huggingface.co/docs/hub/model-cards.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from hyperrule.backbones.zoo import find
from hyperrule.evaluation.agreement import headline as distilled_headline
from hyperrule.evaluation.intervals import Interval, balanced, wilson
from hyperrule.evaluation.metrics import Metrics, headline
from hyperrule.exporting.parity import Parity
from hyperrule.planning.finetune import Plan
from hyperrule.planning.training_plan import TrainingPlan
from hyperrule.reporting.commands import command_of, snippets
from hyperrule.reporting.page import name_of, shown_decision
from hyperrule.reporting.read import DistilledRun, FinetunedRun, read_run
from hyperrule.run_folder import RunFolder
from hyperrule.support.wording import number, plain

WEAKEST = 5  # classes that are shown


def write_card(folder: RunFolder) -> None:
    """Raises RunFolderError if something is missing or damaged, RunError if the card cannot be written."""
    folder.write(folder.card_file, model_card(read_run(folder)))


def model_card(run: FinetunedRun | DistilledRun) -> str:
    """Markdown."""
    sections = _finetuned(run) if isinstance(run, FinetunedRun) else _distilled(run)
    front = yaml.safe_dump(_front_matter(run), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(run: FinetunedRun | DistilledRun) -> dict[str, Any]:
    plan, classifier = run.plan, isinstance(run, FinetunedRun) or bool(run.exports)
    front: dict[str, Any] = {"library_name": "tensorflow"}
    if classifier:
        front["pipeline_tag"] = "image-classification"
    front["tags"] = ["hyperrule", "big-transfer", *(["distillation"] if plan.job == "distill" else [])]
    if (released := find(plan.backbone.name)) is not None and plan.backbone.kind in ("bucket", "hub"):
        front["base_model"] = released.name
    if isinstance(run, FinetunedRun):
        front["metrics"] = ["accuracy"]
        front["model-index"] = [{"name": run.folder.path.resolve().name, "results": [_result(run.plan, run.metrics)]}]
    return front


def _result(plan: Plan, metrics: Metrics) -> dict[str, Any]:
    figures = {"accuracy": metrics.top1, "balanced_accuracy": metrics.balanced_accuracy, "loss": metrics.loss}
    if len(plan.class_names) > 5:
        figures["top_5_accuracy"] = metrics.top5
    if metrics.calibration is not None:
        figures["expected_calibration_error"] = metrics.calibration.after.ece
    return {
        "task": {"type": "image-classification"},
        "dataset": {"name": name_of(plan), "type": plan.dataset.kind.replace(" ", "-"), "split": plan.test_split.value},
        "metrics": [{"type": name, "value": round(value, 6)} for name, value in figures.items()],
    }


def _finetuned(run: FinetunedRun) -> Iterator[str]:
    plan, metrics = run.plan, run.metrics
    yield f"# {plain(name_of(plan))}, fine-tuned from {plain(plan.backbone.name)}"
    yield f"{_sentence(headline(plan, metrics))}."
    correct = sum(row[label] for label, row in enumerate(metrics.confusion))
    yield (
        f"From {number(metrics.examples, 'image')} the accuracy on all images like them is known to be from "
        f"{_between(wilson(correct, metrics.examples))}, balanced over classes {_between(balanced(metrics.per_class))} "
        "(95 % intervals)."
    )
    yield (
        f"An image classifier of {number(len(plan.class_names), 'class')}: {plan.backbone.architecture} "
        f"({plan.backbone.parameters / 1e6:.1f} M parameters) with a new head, fine-tuned by the BiT-HyperRule on "
        f"{number(plan.examples.value, 'image')}. {_trained(run)} `report.html` shows the data, the course of "
        "training, every class, the mistakes and their confidence."
    )
    yield from _departures(plan)
    yield "## Intended use and limits"
    yield _limits(run)
    yield from _data_notes(plan)
    yield from _weakest(metrics)
    yield from _calibration(metrics)
    yield from _exports(run.exports)
    yield from _repeat(run)


def _distilled(run: DistilledRun) -> Iterator[str]:
    plan, agreements = run.plan, run.agreements
    yield f"# {plan.backbone.architecture}, taught by {plain(plan.teacher.name)}"
    yield f"{_sentence(distilled_headline(agreements.overall))}."
    yield (
        f"A small BiT trained to be like a large network, by function matching (arXiv 2106.05237), on "
        f"{number(plan.examples.value, 'image')} without labels. {_trained(run)}"
    )
    yield "## Held-out images"
    yield _table(
        ["data set", "images", "agreement", "KL", "features", "teacher's top-1", "student's top-1"],
        [
            [plain(each.name), str(each.examples), _percent(each.top1_agreement), _number(each.kl)]
            + [_percent(value) for value in (each.features_r2, each.teacher_top1, each.student_top1)]
            for each in (agreements.overall, *agreements.by_data_set)
        ],
    )
    yield "## Pool"
    yield _table(
        ["data set", "kind", "images", "held out", "sha256"],
        [
            [plain(part.name), part.kind, str(part.examples), str(part.held_out), part.sha256[:16]]
            for part in plan.pool.parts
        ],
    )
    skipped = {f"{part.name}/{image}": problem for part in plan.pool.parts for image, problem in part.skipped.items()}
    yield from _skipped(skipped)
    yield "## Decisions"
    yield _bullets(
        f"{name}: {shown_decision(made.value)} ({plain(made.reason)})" for name, made in plan.decisions.items()
    )
    if run.exports:
        yield from _exports(run.exports)
    else:
        yield "No classifier is exported: the student gives features."
    yield from _repeat(run)
    yield (
        "`weights.npz` is a BiT checkpoint: `hyperrule finetune --backbone` takes this folder, `hyperrule port` makes "
        "a hub module of it."
    )


def _trained(run: FinetunedRun | DistilledRun) -> str:
    plan = run.plan
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    return (
        f"Trained for {number(plan.steps, 'step')} of {plan.batch.value} at {plan.crop.value} px, base rate "
        f"{plan.base_learning_rate.value:g}, seed {plan.seed.value}, {plan.precision.value}{overflows(run.folder)}; "
        f"{versions}."
    )


def _departures(plan: TrainingPlan) -> Iterator[str]:
    yield "## Departures from the BiT-HyperRule"
    departures = [
        f"{name}: {shown_decision(made.value)} ({plain(made.reason)})" for name, made in plan.deviations.items()
    ]
    yield _bullets(departures) if departures else "none"


def _limits(run: FinetunedRun) -> str:
    plan, metrics = run.plan, run.metrics
    most = max(plan.dataset.splits["train"].per_class)
    fewest = min(plan.dataset.splits["train"].per_class)
    told = (
        f"For images like those of {plain(name_of(plan))}, each of one of its "
        f"{number(len(plan.class_names), 'class')}: the classifier names one of them whatever the image shows. "
        f"It was trained on {number(plan.examples.value, 'image')} and measured on "
        f"{number(metrics.examples, 'image')} ({plain(plan.test_split.reason)}), once, and on nothing else: not on "
        "other cameras, places or times, nor on images that were altered on purpose, nor for groups of people. "
        f"Images are resized to {plan.evaluation_size.value} x {plan.evaluation_size.value} pixels, so that smaller "
        "things are lost. What the backbone learned from its own training data is not known to be free of bias."
    )
    if most >= 2 * fewest:
        told += f" Classes are uneven: the training split has {fewest:,} to {most:,} images of a class."
    if absent := sum(known.examples == 0 for known in metrics.per_class):
        told += f" Of {number(absent, 'class')} there was no test image."
    return told


def _data_notes(plan: Plan) -> Iterator[str]:
    yield from _skipped(plan.dataset.skipped)
    if plan.dataset.warnings:
        yield "## Warnings about the data"
        yield _bullets(map(plain, plan.dataset.warnings))


def _skipped(skipped: dict[str, str]) -> Iterator[str]:
    if skipped:
        yield "## Images left out"
        yield _bullets(f"{plain(image)}: {plain(problem)}" for image, problem in skipped.items())


def _weakest(metrics: Metrics) -> Iterator[str]:
    present = sorted((known for known in metrics.per_class if known.examples), key=lambda known: known.f1)
    yield "## Weakest classes"
    yield _table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [plain(one.name), str(one.examples), *(f"{value:.3f}" for value in (one.precision, one.recall, one.f1))]
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
            f"Probabilities are softmax(logits): a temperature, tried on {tried}, would not have made the expected "
            f"calibration error smaller, which is {_percent(found.after.ece)}."
        )
        return
    yield (
        f"Probabilities are softmax(logits / {found.temperature:.4f}), fitted on {tried}. Expected calibration error "
        f"{_percent(found.before.ece)} before, {_percent(found.after.ece)} after; loss {found.before.loss:.4f} and "
        f"{found.after.loss:.4f}."
    )


def _exports(exports: tuple[Parity, ...]) -> Iterator[str]:
    if not exports:
        return
    yield "## Exports"
    yield _table(
        ["export", "images compared", "same class", "largest difference"],
        [
            [
                one.name,
                str(one.examples),
                _percent(one.top1_agreement),
                f"{one.largest_difference:.1e}",
            ]
            for one in exports
        ],
    )
    yield (
        "The SavedModel lies in `export/saved_model/1`, as TensorFlow Serving wants it, and needs TensorFlow only. Its "
        "signatures, N being any number:"
    )
    yield _table(
        ["signature", "input", "dtype and shape", "meaning"],
        [
            ["`serving_default`", "`image_bytes`", "string [N]", "each a JPEG, PNG, GIF, BMP or WebP of any size"],
            ["`images`", "`images`", "uint8 [N, height, width, 3]", "RGB from 0 to 255, of any size"],
        ],
    )
    yield "Both resize and scale the images themselves, and return"
    yield _table(
        ["output", "dtype and shape", "meaning"],
        [
            ["`label`", "string [N]", "the likeliest class"],
            ["`score`", "float32 [N]", "its probability"],
            ["`probabilities`", "float32 [N, classes]", "of all classes, calibrated"],
            ["`class_names`", "string [N, classes]", "their names, the same in every row"],
        ],
    )


def _repeat(run: FinetunedRun | DistilledRun) -> Iterator[str]:
    plan = run.plan
    yield "## Use it"
    for snippet in snippets(run.folder, classifier=bool(run.exports)):
        yield f"{snippet.title}:\n\n{_fenced(snippet.text, snippet.language)}"
    yield "## Repeat it"
    yield _fenced(f"{command_of(plan.recipe)}\n", "sh")
    data = run.plan.dataset.sha256 if isinstance(run, FinetunedRun) else run.plan.pool.sha256
    hashes = [f"data: `{data}`", f"backbone: `{plan.backbone.sha256}`" if plan.backbone.sha256 else ""]
    yield "SHA-256 of what went in:\n\n" + _bullets(filter(None, hashes))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _between(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _fenced(text: str, language: str) -> str:
    fence = "`" * (1 + max(2, *map(len, re.findall("`+", text)), 0))
    return f"{fence}{language}\n{text}{fence}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def overflows(run: RunFolder) -> str:
    """Steps whose float16 gradient overflowed, where there were any."""
    count = sum(bool(line.get("overflow")) for line in run.read_metrics())
    return f" ({number(count, 'step')} skipped, whose gradient overflowed)" if count else ""
