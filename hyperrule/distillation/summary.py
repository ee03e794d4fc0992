"""The result of a distillation in a line, for people, and as JSON, for programs."""

import json

from hyperrule.evaluation.agreement import Agreement
from hyperrule.exporting.parity import Parity
from hyperrule.planning.distill import DistillPlan
from hyperrule.run_folder import RunFolder


def result_json(plan: DistillPlan, overall: Agreement, parity: Parity | None, run: RunFolder) -> str:
    """The result for programs."""
    figures = {
        "run": str(run.path),
        "weights": str(run.weights_file),
        "saved_model": None if parity is None else str(run.saved_model),
        "eval": str(run.eval_file),
        "report": str(run.report_file),
        "model_card": str(run.card_file),
        "steps": plan.steps,
        **overall.model_dump(exclude={"name"}),
        "parity": None if parity is None else parity.model_dump(),
    }
    return json.dumps(figures, indent=2)
