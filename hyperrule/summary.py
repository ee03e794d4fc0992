"""The result of a run in a line, for people, and as JSON, for programs."""

import json

from hyperrule.evaluation.metrics import Metrics
from hyperrule.exporting.parity import Parity
from hyperrule.planning.finetune import Plan
from hyperrule.run_folder import RunFolder


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
