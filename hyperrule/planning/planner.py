"""What every planner decides: how a training runs on its machine. What is learned, `finetune` and `distill` decide."""

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from hyperrule.backbones.info import BackboneInfo
from hyperrule.errors import RecipeError
from hyperrule.planning.cost import estimate_cost, fit, memory_bytes
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.machine.speed import installed_version
from hyperrule.planning.precision import precision_of, xla_of
from hyperrule.planning.training_plan import ASKED, HYPERRULE, Decided, Precision
from hyperrule.recipe import TrainingRecipe
from hyperrule.support.version import __version__

R = TypeVar("R", bound=TrainingRecipe)

LIBRARIES = ("tensorflow", "keras", "numpy")  # those whose version can change a result
TPU_CORES = 8  # of one host: v2 and v3 boards, docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm


@dataclass(frozen=True)
class Planner(ABC, Generic[R]):
    """Decides how `backbone` is trained by as many `workers` with such a machine each; what is learned, its kinds
    decide."""

    recipe: R
    backbone: BackboneInfo
    machine: Machine
    workers: int

    SEEDED: ClassVar[str]  # what the seed decides

    @property
    def other_memory(self) -> int:
        """Bytes that something besides the training of the backbone takes of every device."""
        return 0

    @abstractmethod
    def evaluated_once(self) -> Decided[int | None]:
        """Why there is no evaluation on the way unless it is asked for."""

    def execution(self, crop: int, batch: int, steps: int, evaluated: int, passes: int = 3) -> dict[str, Any]:
        """The fields of a plan that every training has, for `steps` of `batch` images of `crop` pixels, of which a
        step takes `passes` through the network, and an evaluation of so many images.

        Raises RecipeError if the machine or the backbone does not allow what is asked for.
        """
        precision = self.precision()
        micro_batch, remat = self.micro_batch(crop, batch, precision.value)
        estimate = estimate_cost(
            self.backbone,
            crop,
            batch,
            micro_batch.value,
            steps,
            evaluated,
            precision.value,
            self.machine,
            passes=passes,
            remat=remat.value,
        )
        return {
            "recipe": self.recipe,
            "backbone": self.backbone,
            "machine": self.machine,
            "workers": self.worker_count(),
            "versions": installed_versions(),
            "seed": Decided(value=self.recipe.seed, reason=f"decides {self.SEEDED}", source=ASKED),
            "precision": precision,
            "xla": self.xla(precision.value),
            "micro_batch": micro_batch,
            "remat": remat,
            "eval_every": self.eval_every(),
            "checkpoint_every": self.checkpoint_every(),
            "estimate": estimate.model_copy(update={"memory": estimate.memory + self.other_memory}),
        }

    def eval_every(self) -> Decided[int | None]:
        if self.recipe.eval_every is not None:
            return Decided(value=self.recipe.eval_every, reason="steps, asked for", source=ASKED)
        return self.evaluated_once()

    def precision(self) -> Decided[Precision]:
        asked = self.recipe.precision
        if self.backbone.as_it_is is not None:
            whatever = "" if asked in ("auto", "float32") else f", whatever is asked ({asked})"
            reason = f"a SavedModel's types are those it was saved with{whatever}"
            return Decided(value="float32", reason=reason, source="backbone")
        if asked != "auto":
            return Decided(value=asked, reason="asked for", source=ASKED)
        if self.recipe.devices == "tpu":
            return Decided(value="bfloat16", reason="TPUs multiply bfloat16", source="machine")
        return precision_of(self.machine)

    def xla(self, precision: Precision) -> Decided[bool]:
        if self.recipe.devices == "tpu":
            return Decided(value=False, reason="a TPU compiles everything anyway", source="machine")
        if self.recipe.xla != "auto":
            return Decided(value=self.recipe.xla == "on", reason="asked for", source=ASKED)
        if self.backbone.as_it_is is not None:
            return Decided(value=False, reason="not every SavedModel can be compiled", source=HYPERRULE)
        return xla_of(self.machine, precision)

    def worker_count(self) -> int:
        """Raises RecipeError if several would not do the same as one."""
        own = self.backbone.as_it_is
        if self.workers > 1 and own is not None and own.keeps_statistics:
            raise RecipeError(
                f"{self.backbone.name} keeps statistics of its own (batch norm), which {self.workers} workers would "
                "not share. Use one process, with all GPUs of one machine, or a BiT."
            )
        return self.workers

    def micro_batch(self, crop: int, batch: int, precision: Precision) -> tuple[Decided[int], Decided[bool]]:
        """The micro-batch, and whether activations are kept or computed again."""
        asked = self.recipe.remat
        if asked and self.backbone.as_it_is is not None:
            raise RecipeError(f"--remat needs the units of a BiT; {self.backbone.name} runs as it is. Leave it out.")
        share = math.ceil(batch / (self.workers * self.devices))
        limit = self.recipe.memory_limit
        least = self.other_memory + memory_bytes(
            self.backbone, crop, 1, precision, remat=self.backbone.as_it_is is None and asked is None
        )
        if limit is not None and limit < least:
            raise RecipeError(
                f"memory_limit must be at least {least / 2**30:.2f} GiB, what {self.backbone.name} takes for one image "
                f"of {crop} px at a time. Received: {limit / 2**30:.3g} GiB. Take a smaller --crop or --backbone."
            )
        size, recomputed = fit(self.backbone, crop, share, precision, self.machine, limit, asked, self.other_memory)
        memory = "memory" if limit is None else f"a limit of {limit / 2**30:.3g} GiB"
        reason = f"of each device's share of the batch ({share}), as much at once as {memory} and speed want"
        micro_batch = Decided(value=size, reason=reason, source="machine")
        if (given := self.recipe.micro_batch) is not None:
            reason = "asked for" if given <= share else f"{given} asked for, more than a device's share"
            micro_batch = Decided(value=min(given, share), reason=reason, source=ASKED)
        if asked is not None:
            return micro_batch, Decided(value=asked, reason="asked for", source=ASKED)
        if recomputed:
            return micro_batch, Decided(value=True, reason=f"{memory} does not do for less work", source="machine")
        return micro_batch, Decided(value=False, reason="activations fit into memory", source="machine")

    @property
    def devices(self) -> int:
        """Of one worker."""
        return TPU_CORES if self.recipe.devices == "tpu" else max(1, len(self.machine.gpus))

    def checkpoint_every(self) -> Decided[int | None]:
        if self.recipe.checkpoint_every is not None:
            return Decided(value=self.recipe.checkpoint_every, reason="steps, asked for", source=ASKED)
        return Decided(value=None, reason="by the clock, every minute", source=HYPERRULE)


def installed_versions() -> dict[str, str]:
    """Of what is installed and can change a result."""
    return {"hyperrule": __version__, **{library: installed_version(library) or "unknown" for library in LIBRARIES}}


def absolute(path: str | None) -> str | None:
    """The same from any working directory, so that a plan can be resumed from there."""
    return None if path is None else os.path.abspath(os.path.expanduser(path))


def located_backbone(asked: str, found: BackboneInfo) -> str:
    """What was asked for, as a path that is the same from any working directory where it is a file."""
    return found.origin if found.kind == "file" else asked
