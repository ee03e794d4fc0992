"""summary.md of a distillation, and its headline."""

import json
from collections.abc import Sequence

from hyperrule.distillation.agreement import Agreement
from hyperrule.exporting.parity import Parity
from hyperrule.planning.distill_plan import DistillPlan
from hyperrule.run_folder import RunFolder
from hyperrule.summary import overflows
from hyperrule.wording import plain


def headline(overall: Agreement) -> str:
    """One line."""
    return f"student {overall}"


def summary(
    plan: DistillPlan, overall: Agreement, by_data_set: Sequence[Agreement], parity: Parity | None, run: RunFolder
) -> str:
    decisions = [f"- {name}: {decided.value} ({decided.reason})" for name, decided in plan.decisions.items()]
    pool = [
        f"| {plain(part.name)} | {part.kind} | {part.examples} | {part.held_out} | {part.sha256[:16]} |"
        for part in plan.pool.parts
    ]
    skipped = [
        f"- {plain(part.name)}/{plain(image)}: {plain(problem)}"
        for part in plan.pool.parts
        for image, problem in part.skipped.items()
    ]
    agreed = [
        f"| {plain(each.name)} | {each.examples} | {_percent(each.top1_agreement)} | {_number(each.kl)} "
        f"| {_percent(each.features_r2)} | {_percent(each.teacher_top1)} | {_percent(each.student_top1)} |"
        for each in (overall, *by_data_set)
    ]
    return "\n".join(
        [
            f"# {plan.backbone.architecture}, taught by {plain(plan.teacher.name)}",
            "",
            f"{headline(overall)}.",
            "",
            f"Trained for {plan.steps} steps of {plan.batch.value} at {plan.crop.value} px, seed {plan.seed.value}, "
            f"{plan.precision.value}{overflows(run)}; "
            f"{', '.join(f'{name} {version}' for name, version in plan.versions.items())}.",
            *(
                [
                    f"Exported SavedModel agrees with the evaluation on {parity.examples} held-out images (largest "
                    f"difference of a probability: {parity.largest_difference:.1e})."
                ]
                if parity is not None
                else ["No classifier is exported: the student gives features."]
            ),
            "",
            "## Held-out images",
            "",
            "| data set | images | agreement | KL | features | teacher's top-1 | student's top-1 |",
            "|---|---|---|---|---|---|---|",
            *agreed,
            "",
            "## Pool",
            "",
            "| data set | kind | images | held out | sha256 |",
            "|---|---|---|---|---|",
            *pool,
            "",
            *(["## Images left out", "", *skipped, ""] if skipped else []),
            "## Decisions",
            "",
            *decisions,
            "",
            "## Use it",
            "",
            "`weights.npz` is a BiT checkpoint: `hyperrule finetune --backbone` takes this folder, "
            "`hyperrule port` makes a hub module of it.",
            "",
        ]
    )


def result_json(plan: DistillPlan, overall: Agreement, parity: Parity | None, run: RunFolder) -> str:
    """The result for programs."""
    figures = {
        "run": str(run.path),
        "weights": str(run.weights_file),
        "saved_model": None if parity is None else str(run.saved_model),
        "eval": str(run.eval_file),
        "summary": str(run.summary_file),
        "steps": plan.steps,
        **overall.model_dump(exclude={"name"}),
        "parity": None if parity is None else parity.model_dump(),
    }
    return json.dumps(figures, indent=2)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
