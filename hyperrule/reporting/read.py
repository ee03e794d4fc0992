"""A finished run, read from its folder and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hyperrule.errors import RunFolderError
from hyperrule.evaluation.agreement import Agreements
from hyperrule.evaluation.metrics import Metrics
from hyperrule.exporting.parity import Parity, read_parities
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.finetune import Plan
from hyperrule.run_folder import RunFolder


@dataclass(frozen=True)
class Prediction:
    """Of a test image: the label, the likeliest class and its probability."""

    id: str
    label: str
    predicted: str
    score: float

    @property
    def correct(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class FinetunedRun:
    folder: RunFolder
    plan: Plan
    metrics: Metrics
    predictions: tuple[Prediction, ...]
    log: list[dict[str, Any]]
    exports: tuple[Parity, ...]


@dataclass(frozen=True)
class DistilledRun:
    folder: RunFolder
    plan: DistillPlan
    agreements: Agreements
    log: list[dict[str, Any]]
    exports: tuple[Parity, ...]


def read_run(folder: RunFolder) -> FinetunedRun | DistilledRun:
    """Raises RunFolderError, in one line, if it is no run, of another format, or if a file of it is missing or
    damaged."""
    plan = folder.read_plan()
    with _damage(folder.eval_file):
        told = folder.eval_file.read_text(encoding="utf-8")
        figures = (Metrics if isinstance(plan, Plan) else Agreements).model_validate_json(told)
    exports = tuple(read_parities(folder.parity_file).values())
    with _damage(folder.metrics_file):
        log = folder.read_metrics()
        if not all(isinstance(line, dict) and {"kind", "step"} <= line.keys() for line in log):
            raise ValueError("a line of it is none of hyperrule's")
    if isinstance(figures, Agreements):
        assert isinstance(plan, DistillPlan)
        return DistilledRun(folder, plan, figures, log, exports)
    assert isinstance(plan, Plan)
    with _damage(folder.eval_file):
        if tuple(known.name for known in figures.per_class) != plan.class_names:
            raise ValueError("its classes are not those of plan.json")
        if figures.examples == 0 or len(figures.confusion) != len(plan.class_names):
            raise ValueError("its figures are not complete")
    with _damage(folder.predictions_file):
        predictions = _read_predictions(folder.predictions_file)
        if len(predictions) != figures.examples:
            raise ValueError(f"it has {len(predictions)} rows, eval.json {figures.examples} examples")
    return FinetunedRun(folder, plan, figures, predictions, log, exports)


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
