"""Cells that are trained: a fine-tuning that can be resumed, of which the figures remain; TensorFlow."""

import time

from hyperrule.benchmark.cells import PreparedCell
from hyperrule.benchmark.ledger import Line
from hyperrule.evaluation.metrics import Metrics, compute_metrics
from hyperrule.jobs.finetune import HeadOnBackbone
from hyperrule.planning.finetune import Plan
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Reporter


class Measuring(HeadOnBackbone[Metrics]):
    """A fine-tuning that leaves its figures: no weights, no export, no report."""

    def conclude(self) -> Metrics:
        metrics = compute_metrics(self.evaluate(self.testing), self.testing.labels, self.plan.class_names)
        if self.workers.chief:
            self.run.write(self.run.eval_file, metrics.model_dump_json(indent=2) + "\n")
        return metrics


def measure(planned: PreparedCell, run: RunFolder, reporter: Reporter) -> Line:
    """Train the cell in its run folder, from its newest checkpoint if it has begun, and evaluate."""
    start = time.monotonic()
    before = _seconds_of_steps(run)
    resuming = run.plan_file.exists()
    plan, calibration = planned.plan, None
    if resuming:
        stored = run.read_plan()
        assert isinstance(stored, Plan)
        calibration = stored.calibration
        if stored.machine.devices == plan.machine.devices:  # pieces that fitted, fit
            plan = plan.model_copy(update={name: getattr(stored, name) for name in plan.execution_fields})
    metrics = Measuring(plan, planned.source, run, reporter).execute(resuming, calibration)
    seconds = before + time.monotonic() - start
    return planned.done(metrics.top1, metrics.examples, plan.examples.value, seconds)


def _seconds_of_steps(run: RunFolder) -> float:
    """What was trained before, by processes that were stopped."""
    if not run.plan_file.exists():
        return 0.0
    batch = run.read_plan().batch.value
    steps = (line for line in run.read_metrics() if line["kind"] == "step" and line["images_per_second"])
    return sum(batch / float(line["images_per_second"]) for line in steps)
