"""Decides how a training runs on its machine: precision, XLA, micro-batches.

`finetune` and `distill` build on it and decide what is learned.
"""

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args

from hyperrule import __version__
from hyperrule.backbones.info import BackboneInfo
from hyperrule.errors import RecipeError
from hyperrule.planning.cost import estimate_cost, fit, memory_bytes
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.machine.speed import Speed, installed_version
from hyperrule.planning.training_plan import ASKED, HYPERRULE, Decided, Precision
from hyperrule.recipe import TrainingRecipe

BFLOAT16_COMPUTE_CAPABILITY = 8.0  # NVIDIA Ampere, the first with bfloat16 tensor cores
FLOAT16_COMPUTE_CAPABILITY = 7.0  # NVIDIA Volta, the first with tensor cores
WORTH = 1.1  # least speed-up that is worth coarser rounding or XLA's compilation; below it is noise
MACHINE = "machine"
BY_DOCTOR = "measurement"
MEASURE = "'hyperrule doctor --measure' finds out"
LIBRARIES = ("tensorflow", "keras", "numpy")  # those whose version can change a result
TPU_CORES = 8  # of one host: v2 and v3 boards, docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm

R = TypeVar("R", bound=TrainingRecipe)


def worthwhile_precisions(machine: Machine) -> tuple[Precision, ...]:
    """Return the precisions for which the machine's device has instructions, float32 first."""
    if machine.gpus:
        capability = machine.weakest_gpu.compute_capability
        least = {"bfloat16": BFLOAT16_COMPUTE_CAPABILITY, "float16": FLOAT16_COMPUTE_CAPABILITY}
        return ("float32", *(name for name in get_args(Precision) if capability >= least.get(name, float("inf"))))
    sets = machine.instruction_sets
    native = {
        "bfloat16": machine.cpu_bfloat16 or "bf16" in sets,
        "float16": bool({"avx512_fp16", "amx_fp16"} & set(sets)),
    }
    return ("float32", *(name for name in get_args(Precision) if native.get(name)))


def precision_of(machine: Machine) -> Decided[Precision]:
    """Choose the type of convolutions and activations for a native backbone."""
    if machine.speed is not None:
        return _measured_precision(machine.speed)
    return _gpu_precision(machine) if machine.gpus else _cpu_precision(machine)


def xla_of(machine: Machine, precision: Precision) -> Decided[bool]:
    """Decide whether XLA compiles the training step of a native backbone."""
    speed = machine.speed
    # R26x0.5, 128 px, batch 64, on 2 cores of Zen 4, without deterministic operations: 0.53 x float32, 0.48 x bfloat16.
    if speed is None or (without := speed.rate(precision, xla=False)) is None:
        if machine.gpus:
            return Decided(value=False, reason=f"not known to be faster on this GPU; {MEASURE}", source=MACHINE)
        return Decided(value=False, reason=f"on the CPU where it was measured, half as fast; {MEASURE}", source=MACHINE)
    if (compiled := speed.rate(precision, xla=True)) is None:
        return Decided(value=False, reason=f"{_on(speed)}: XLA does not run here", source=BY_DOCTOR)
    reason = f"{_on(speed)}: {precision} with XLA {compiled / without:.2f} x without"
    return Decided(value=compiled >= WORTH * without, reason=reason, source=BY_DOCTOR)


def _measured_precision(speed: Speed) -> Decided[Precision]:
    """Choose the fastest if it is worth it; of equally fast ones, the first that `Precision` names."""
    rates = {name: rate for name in get_args(Precision) if (rate := speed.rate(name)) is not None}
    base = rates["float32"]
    chosen: Precision = "float32"
    for name, rate in rates.items():
        if rate >= WORTH * rates[chosen]:
            chosen = name
    ratios = ", ".join(f"{name} {rate / base:.2f} x float32" for name, rate in rates.items() if name != "float32")
    return Decided(value=chosen, reason=f"{_on(speed)}: {ratios or 'float32 alone'}", source=BY_DOCTOR)


def _gpu_precision(machine: Machine) -> Decided[Precision]:
    gpu = machine.weakest_gpu
    capability = f"{gpu.name} has compute capability {gpu.compute_capability}"
    if gpu.compute_capability >= BFLOAT16_COMPUTE_CAPABILITY:
        reason = f"{capability}; tensor cores compute in bfloat16 from {BFLOAT16_COMPUTE_CAPABILITY} on"
        return Decided(value="bfloat16", reason=reason, source=MACHINE)
    if gpu.compute_capability >= FLOAT16_COMPUTE_CAPABILITY:
        reason = f"{capability}: tensor cores compute in float16; bfloat16 needs {BFLOAT16_COMPUTE_CAPABILITY}"
        return Decided(value="float16", reason=reason, source=MACHINE)
    reason = f"{capability}; tensor cores need {FLOAT16_COMPUTE_CAPABILITY}"
    return Decided(value="float32", reason=reason, source=MACHINE)


def _cpu_precision(machine: Machine) -> Decided[Precision]:
    if machine.cpu_bfloat16:
        return Decided(value="bfloat16", reason="this CPU multiplies bfloat16 natively", source=MACHINE)
    if "bf16" in machine.instruction_sets:
        reason = f"this CPU has bfloat16 instructions, but they are not known to be faster; {MEASURE}"
        return Decided(value="float32", reason=reason, source=MACHINE)
    return Decided(value="float32", reason="this CPU has no bfloat16 instructions", source=MACHINE)


def _on(speed: Speed) -> str:
    return f"measured by 'hyperrule doctor' on {speed.day}"


@dataclass(frozen=True)
class Planner(ABC, Generic[R]):
    """Decides how `workers` processes, each on such a machine, train `backbone`.

    Subclasses decide what is learned.
    """

    recipe: R
    backbone: BackboneInfo
    machine: Machine
    workers: int

    SEEDED: ClassVar[str]  # what the seed decides

    @property
    def other_memory(self) -> int:
        """Bytes on every device that something other than training the backbone takes."""
        return 0

    @abstractmethod
    def evaluated_once(self) -> Decided[int | None]:
        """Return the decision for a recipe without `eval_every`: no evaluation during training, with the reason."""

    def execution(self, crop: int, batch: int, steps: int, evaluated: int, passes: int = 3) -> dict[str, Any]:
        """Return the fields of a plan that every kind of training has.

        The training takes `steps` steps of `batch` images of `crop` pixels, each of the work of `passes` forward
        passes, and evaluates `evaluated` images.

        Raises RecipeError if the machine or the backbone does not allow what the recipe requests.
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
            "seed": Decided(value=self.recipe.seed, reason=f"sets {self.SEEDED}", source=ASKED),
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
            return Decided(value=self.recipe.eval_every, reason="steps, requested", source=ASKED)
        return self.evaluated_once()

    def precision(self) -> Decided[Precision]:
        asked = self.recipe.precision
        if self.backbone.opaque is not None:
            ignored = "" if asked in ("auto", "float32") else f"; the requested {asked} is ignored"
            reason = f"a SavedModel keeps the types it was saved with{ignored}"
            return Decided(value="float32", reason=reason, source="backbone")
        if asked != "auto":
            return Decided(value=asked, reason="requested", source=ASKED)
        if self.recipe.devices == "tpu":
            return Decided(value="bfloat16", reason="TPUs multiply in bfloat16", source="machine")
        return precision_of(self.machine)

    def xla(self, precision: Precision) -> Decided[bool]:
        if self.recipe.devices == "tpu":
            return Decided(value=False, reason="a TPU compiles every step anyway", source="machine")
        if self.recipe.xla != "auto":
            return Decided(value=self.recipe.xla == "on", reason="requested", source=ASKED)
        if self.backbone.opaque is not None:
            return Decided(value=False, reason="XLA cannot compile every SavedModel", source=HYPERRULE)
        return xla_of(self.machine, precision)

    def worker_count(self) -> int:
        """Return the number of workers. Raises RecipeError if several would not train the same network as one."""
        own = self.backbone.opaque
        if self.workers > 1 and own is not None and own.keeps_statistics:
            raise RecipeError(
                f"{self.backbone.name} has batch norm statistics, which {self.workers} workers would not share. "
                "Use one process, with all GPUs of one machine, or a BiT."
            )
        return self.workers

    def micro_batch(self, crop: int, batch: int, precision: Precision) -> tuple[Decided[int], Decided[bool]]:
        """Return the micro-batch, and whether activations are recomputed in the backward pass."""
        asked = self.recipe.remat
        if asked and self.backbone.opaque is not None:
            raise RecipeError(
                f"--remat needs the units of a BiT; {self.backbone.name} runs as an opaque graph. Leave --remat out."
            )
        share = math.ceil(batch / (self.workers * self.devices))
        limit = self.recipe.memory_limit
        least = self.other_memory + memory_bytes(
            self.backbone, crop, 1, precision, remat=self.backbone.opaque is None and asked is None
        )
        if limit is not None and limit < least:
            raise RecipeError(
                f"memory_limit must be at least {least / 2**30:.2f} GiB, which {self.backbone.name} takes for one "
                f"image of {crop} px at a time. Received: {limit / 2**30:.3g} GiB. Use a smaller --crop or --backbone."
            )
        size, recomputed = fit(self.backbone, crop, share, precision, self.machine, limit, asked, self.other_memory)
        memory = "memory" if limit is None else f"a limit of {limit / 2**30:.3g} GiB"
        reason = f"each device's share of the batch ({share}), in equal parts that fit in {memory}"
        micro_batch = Decided(value=size, reason=reason, source="machine")
        if (given := self.recipe.micro_batch) is not None:
            reason = "requested" if given <= share else f"{given} requested, but a device's share is smaller"
            micro_batch = Decided(value=min(given, share), reason=reason, source=ASKED)
        if asked is not None:
            return micro_batch, Decided(value=asked, reason="requested", source=ASKED)
        if recomputed:
            return micro_batch, Decided(
                value=True,
                reason=f"with all activations kept, {memory} holds too small a micro-batch",
                source="machine",
            )
        return micro_batch, Decided(value=False, reason="activations fit in memory", source="machine")

    @property
    def devices(self) -> int:
        """The number of devices of one worker."""
        return TPU_CORES if self.recipe.devices == "tpu" else max(1, len(self.machine.gpus))

    def checkpoint_every(self) -> Decided[int | None]:
        if self.recipe.checkpoint_every is not None:
            return Decided(value=self.recipe.checkpoint_every, reason="steps, requested", source=ASKED)
        return Decided(value=None, reason="by the clock, every minute", source=HYPERRULE)


def installed_versions() -> dict[str, str]:
    """Return the versions of the installed software that can change a result."""
    return {"hyperrule": __version__, **{library: installed_version(library) or "unknown" for library in LIBRARIES}}


def absolute(path: str | None) -> str | None:
    """Return the absolute path, so that a plan can be resumed from any working directory."""
    return None if path is None else os.path.abspath(os.path.expanduser(path))


def located_backbone(asked: str, found: BackboneInfo) -> str:
    """Return the requested backbone; a file by its absolute path, which holds from any working directory."""
    return found.origin if found.kind == "file" else asked
