"""summary.md: the result of a run for people, from the plan, the figures and the folder."""

import json

from hyperrule.evaluation.metrics import Metrics
from hyperrule.exporting.parity import Parity
from hyperrule.planning.plan import Plan
from hyperrule.run_folder import RunFolder
from hyperrule.wording import number, plain


def headline(plan: Plan, metrics: Metrics) -> str:
    """One line: accuracy, as a percentage and as a count."""
    correct = sum(row[index] for index, row in enumerate(metrics.confusion))
    balanced = f", balanced {metrics.balanced_accuracy:.2%}" if plan.balance.value != "none" else ""
    return (
        f"{plan.test_split.value} accuracy {metrics.top1:.2%} ({correct} of {metrics.examples}){balanced}, "
        f"top-5 {metrics.top5:.2%}, loss {metrics.loss:.4f}"
    )


def summary(plan: Plan, metrics: Metrics, parity: Parity, run: RunFolder) -> str:
    schedule = plan.schedule.value
    deviations = [f"- {name}: {decided.value} ({decided.reason})" for name, decided in plan.deviations.items()]
    worst = sorted(metrics.per_class, key=lambda figures: figures.f1)[:5]
    warnings = [f"- {plain(warning)}" for warning in plan.dataset.warnings]
    skipped = [f"- {plain(name)}: {plain(problem)}" for name, problem in plan.dataset.skipped.items()]
    return "\n".join(
        [
            f"# {plain(plan.dataset.name)}, fine-tuned from {plan.backbone.name}",
            "",
            headline(plan, metrics),
            "",
            f"Trained on {plan.examples.value} images of {len(plan.class_names)} classes: {schedule.steps} steps of "
            f"{plan.batch.value} at {plan.crop.value} px, base rate {plan.base_learning_rate.value:g}, "
            f"seed {plan.seed.value}, {plan.precision.value}{overflows(run)}; "
            f"{', '.join(f'{name} {version}' for name, version in plan.versions.items())}.",
            f"Exported SavedModel agrees with the evaluation on {parity.examples} test images "
            f"(largest difference of a probability: {parity.largest_difference:.1e}).",
            "",
            "## Departures from the BiT-HyperRule",
            "",
            *(deviations or ["none"]),
            "",
            "## Weakest classes",
            "",
            "| class | examples | precision | recall | F1 |",
            "|---|---|---|---|---|",
            *(
                f"| {plain(figures.name)} | {figures.examples} "
                f"| {figures.precision:.3f} | {figures.recall:.3f} | {figures.f1:.3f} |"
                for figures in worst
            ),
            "",
            *(["## Images left out", "", *skipped, ""] if skipped else []),
            *(["## Warnings about the data", "", *warnings, ""] if warnings else []),
            "## Use it",
            "",
            "```python",
            "import tensorflow as tf",
            f'classify = tf.saved_model.load({str(run.saved_model)!r}).signatures["serving_default"]',
            'answer = classify(image_bytes=tf.constant([tf.io.read_file("image.jpg").numpy()]))',
            'print(answer["label"], answer["score"])',
            "```",
            "",
        ]
    )


def overflows(run: RunFolder) -> str:
    """Steps whose float16 gradient overflowed, where there were any."""
    count = sum(bool(line.get("overflow")) for line in run.read_metrics())
    return f" ({number(count, 'step')} skipped, whose gradient overflowed)" if count else ""


def result_json(plan: Plan, metrics: Metrics, parity: Parity, run: RunFolder) -> str:
    """The result for programs: where everything is, and the figures without per-class detail."""
    return json.dumps(
        {
            "run": str(run.path),
            "saved_model": str(run.saved_model),
            "eval": str(run.eval_file),
            "summary": str(run.summary_file),
            "steps": plan.schedule.value.steps,
            **metrics.model_dump(exclude={"per_class", "confusion"}),
            "parity": parity.model_dump(),
        },
        indent=2,
    )
