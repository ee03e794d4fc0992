"""Measures cells that are trained: a fine-tuning that can be resumed and keeps only its figures; needs TensorFlow."""

import time

from hyperrule.benchmark.cells import PreparedCell
from hyperrule.benchmark.ledger import Line
from hyperrule.evaluation.metrics import Metrics, compute_metrics
from hyperrule.jobs.finetune import HeadOnBackbone
from hyperrule.planning.finetune_plan import Plan
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Reporter


class Measuring(HeadOnBackbone[Metrics]):
    """A fine-tuning that keeps its figures only: no weights, no export, no report."""

    def conclude(self) -> Metrics:
        metrics = compute_metrics(self.evaluate(self.testing), self.testing.labels, self.plan.class_names)
        if self.workers.chief:
            self.run.write(self.run.eval_file, metrics.model_dump_json(indent=2) + "\n")
        return metrics


def measure(planned: PreparedCell, run: RunFolder, reporter: Reporter) -> Line:
    """Train the cell in its run folder, from its newest checkpoint if there is one, and evaluate it."""
    start = time.monotonic()
    before = _seconds_of_steps(run)
    resuming = run.plan_file.exists()
    plan, calibration = planned.plan, None
    if resuming:
        stored = run.read_plan()
        assert isinstance(stored, Plan)
        calibration = stored.calibration
        if stored.machine.devices == plan.machine.devices:  # micro-batches that fitted in memory will fit again
            plan = plan.model_copy(update={name: getattr(stored, name) for name in plan.execution_fields})
    metrics = Measuring(plan, planned.source, run, reporter).execute(resuming, calibration)
    seconds = before + time.monotonic() - start
    return planned.done(metrics.top1, metrics.examples, plan.examples.value, seconds)


def _seconds_of_steps(run: RunFolder) -> float:
    """Return the seconds of training steps in earlier processes that were stopped."""
    if not run.plan_file.exists():
        return 0.0
    batch = run.read_plan().batch.value
    steps = (line for line in run.read_metrics() if line["kind"] == "step" and line["images_per_second"])
    return sum(batch / float(line["images_per_second"]) for line in steps)
