"""The result of a finished run: its folder, plan and figures, read from files alone."""

import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hyperrule.errors import RunFolderError
from hyperrule.evaluation.agreement import Agreements
from hyperrule.evaluation.agreement import headline as agreement_headline
from hyperrule.evaluation.metrics import Metrics
from hyperrule.evaluation.metrics import headline as accuracy_headline
from hyperrule.exporting.parity import Parity, read_parities
from hyperrule.planning.distill import DistillPlan
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.training_plan import TrainingPlan
from hyperrule.run_folder import RunFolder


@dataclass(frozen=True)
class Result(ABC):
    """A finished run. `parity` compares its SavedModel with the evaluation; None if the run has no classifier."""

    run: RunFolder
    plan: TrainingPlan
    parity: Parity | None

    EVALUATION: ClassVar[str]  # what eval.json holds

    @property
    @abstractmethod
    def headline(self) -> str:
        """Return the main figures in one line."""

    @property
    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """Return the figures by name, without those of single classes and data sets."""

    @property
    @abstractmethod
    def next_step(self) -> str:
        """Return the command that usually follows, with its purpose; empty if none does."""

    @property
    def files(self) -> dict[str, Path]:
        """Return the main files of the run folder, by their kind."""
        exported = {} if self.parity is None else {"SavedModel": self.run.saved_model}
        return {**exported, self.EVALUATION: self.run.eval_file, "report": self.run.report_file}

    @property
    def facts(self) -> dict[str, Any]:
        """Return paths, steps, figures and parity as a dict for JSON."""
        return {
            "run": str(self.run.path),
            "weights": str(self.run.weights_file),
            "saved_model": None if self.parity is None else str(self.run.saved_model),
            "eval": str(self.run.eval_file),
            "report": str(self.run.report_file),
            "model_card": str(self.run.card_file),
            "steps": self.plan.steps,
            **self.figures,
            "parity": None if self.parity is None else self.parity.model_dump(),
        }


@dataclass(frozen=True)
class Finetuned(Result):
    """A finished fine-tuning, which always leaves a classifier."""

    plan: Plan
    parity: Parity
    metrics: Metrics

    EVALUATION: ClassVar = "metrics"

    @property
    def headline(self) -> str:
        return accuracy_headline(self.plan, self.metrics)

    @property
    def figures(self) -> dict[str, Any]:
        return self.metrics.model_dump(exclude={"per_class", "confusion"})

    @property
    def next_step(self) -> str:
        if self.plan.dataset.kind == "digits":
            return "hyperrule finetune --dataset FOLDER --budget 5m   (FOLDER/CLASS/*.jpg: your own images)"
        if self.plan.deviations:
            again = f"hyperrule finetune --dataset {shlex.quote(self.plan.recipe.dataset)}"
            return f"{again}   (the whole rule, without shortcuts)"
        return ""


@dataclass(frozen=True)
class Distilled(Result):
    """A finished distillation; its student is a classifier if its teacher is one."""

    plan: DistillPlan
    agreements: Agreements

    EVALUATION: ClassVar = "agreement"

    @property
    def headline(self) -> str:
        return agreement_headline(self.agreements.overall)

    @property
    def figures(self) -> dict[str, Any]:
        return self.agreements.overall.model_dump(exclude={"name"})

    @property
    def files(self) -> dict[str, Path]:
        return {"weights": self.run.weights_file, **super().files}

    @property
    def next_step(self) -> str:
        return f"hyperrule finetune --backbone {shlex.quote(str(self.run.path))} --dataset FOLDER"


def finetuned(run: RunFolder) -> Finetuned:
    """Return the result of a finished fine-tuning, from its files. Raises RunFolderError if one is missing."""
    plan = run.read_plan_of(Plan)
    figures = Metrics.model_validate_json(run.eval_file.read_text(encoding="utf-8"))
    parity = read_parities(run.parity_file).get("saved_model")
    if parity is None:
        again = f"hyperrule export {shlex.quote(str(run.path))} --format saved_model"
        raise RunFolderError(f"{run.parity_file} has no entry for saved_model. Export it again: {again}")
    return Finetuned(run, plan, parity, figures)


def distilled(run: RunFolder) -> Distilled:
    """Return the result of a finished distillation, from its files. Raises RunFolderError if one is missing."""
    plan = run.read_plan_of(DistillPlan)
    agreements = Agreements.model_validate_json(run.eval_file.read_text(encoding="utf-8"))
    return Distilled(run, plan, read_parities(run.parity_file).get("saved_model"), agreements)
