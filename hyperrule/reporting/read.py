"""Reads a finished run of whatever kind from its folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hyperrule.errors import RunFolderError
from hyperrule.evaluation.agreement import Agreements
from hyperrule.evaluation.metrics import Metrics
from hyperrule.exporting.parity import read_parities
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.finetune import Plan
from hyperrule.reporting.distilled import DistilledRun
from hyperrule.reporting.finetuned import FinetunedRun
from hyperrule.reporting.finished_run import FinishedRun, Prediction
from hyperrule.run_folder import RunFolder


def read_run(folder: RunFolder) -> FinishedRun:
    """Raises RunFolderError, in one line, if it is no run, of another format, or if a file of it is missing or
    damaged."""
    return {"finetune": _finetuned, "distill": _distilled}[folder.read_plan().job](folder)


def _finetuned(folder: RunFolder) -> FinetunedRun:
    plan, exports = folder.read_plan_of(Plan), tuple(read_parities(folder.parity_file).values())
    with _damage(folder.eval_file):
        metrics = Metrics.model_validate_json(folder.eval_file.read_text(encoding="utf-8"))
    log = _log(folder)
    with _damage(folder.eval_file):
        if tuple(known.name for known in metrics.per_class) != plan.class_names:
            raise ValueError("its classes are not those of plan.json")
        if metrics.examples == 0 or len(metrics.confusion) != len(plan.class_names):
            raise ValueError("its figures are not complete")
    with _damage(folder.predictions_file):
        predictions = _read_predictions(folder.predictions_file)
        if len(predictions) != metrics.examples:
            raise ValueError(f"it has {len(predictions)} rows, eval.json {metrics.examples} examples")
    return FinetunedRun(folder, plan, log, exports, metrics, predictions)


def _distilled(folder: RunFolder) -> DistilledRun:
    plan, exports = folder.read_plan_of(DistillPlan), tuple(read_parities(folder.parity_file).values())
    with _damage(folder.eval_file):
        agreements = Agreements.model_validate_json(folder.eval_file.read_text(encoding="utf-8"))
    return DistilledRun(folder, plan, _log(folder), exports, agreements)


def _log(folder: RunFolder) -> list[dict[str, Any]]:
    with _damage(folder.metrics_file):
        log = folder.read_metrics()
        if not all(isinstance(line, dict) and {"kind", "step"} <= line.keys() for line in log):
            raise ValueError("a line of it is none of hyperrule's")
    return log


def _read_predictions(file: Path) -> tuple[Prediction, ...]:
    columns = pq.read_table(file, columns=["id", "label", "predicted", "score"]).to_pydict()
    return tuple(map(Prediction, *(columns[name] for name in ("id", "label", "predicted", "score"))))


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RunFolderError(
            f"{file} is missing: the run is not complete. Restore it, or train again with --out."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # pyarrow's and pydantic's among them
        raise RunFolderError(f"{file} is damaged: {' '.join(str(error).split())[:200]}") from None
