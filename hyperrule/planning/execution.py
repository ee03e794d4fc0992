"""What `--precision auto` and `--xla auto` choose: by measurement where there is one, else by what is known.

How a training is run on its machine: precision, pieces, devices; the same for all that is trained.
"""

import math
from dataclasses import dataclass
from typing import get_args

from hyperrule.backbones.info import BackboneInfo
from hyperrule.errors import RecipeError
from hyperrule.planning.cost import fit, memory_bytes
from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.machine.speed import Speed, installed_version
from hyperrule.planning.training_plan import ASKED, HYPERRULE, Decided, Precision
from hyperrule.recipe import TrainingRecipe
from hyperrule.support.version import __version__

BFLOAT16_COMPUTE_CAPABILITY = 8.0  # NVIDIA Ampere, the first with bfloat16 tensor cores
FLOAT16_COMPUTE_CAPABILITY = 7.0  # NVIDIA Volta, the first with tensor cores
WORTH = 1.1  # times as fast: less is noise, and neither rounding nor XLA's compilation should be had for nothing
MACHINE = "machine"
MEASURED = "measurement"
MEASURE = "'hyperrule doctor --measure' finds out"


def worthwhile_precisions(machine: Machine) -> tuple[Precision, ...]:
    """Those for which the machine's device has instructions, float32 first."""
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
    """The type of convolutions and activations for a native backbone."""
    if machine.speed is not None:
        return _measured_precision(machine.speed)
    return _gpu_precision(machine) if machine.gpus else _cpu_precision(machine)


def xla_of(machine: Machine, precision: Precision) -> Decided[bool]:
    """Whether to compile the step of a native backbone with XLA."""
    speed = machine.speed
    # R26x0.5, 128 px, batch 64, on 2 cores of Zen 4, without deterministic operations: 0.53 x float32, 0.48 x bfloat16.
    if speed is None or (without := speed.rate(precision, xla=False)) is None:
        if machine.gpus:
            return Decided(value=False, reason=f"not known to pay on this GPU; {MEASURE}", source=MACHINE)
        return Decided(value=False, reason=f"half as fast on the CPU where it was measured; {MEASURE}", source=MACHINE)
    if (compiled := speed.rate(precision, xla=True)) is None:
        return Decided(value=False, reason=f"{_on(speed)}: XLA does not run here", source=MEASURED)
    reason = f"{_on(speed)}: XLA {compiled / without:.2f} x {precision} without"
    return Decided(value=compiled >= WORTH * without, reason=reason, source=MEASURED)


def _measured_precision(speed: Speed) -> Decided[Precision]:
    """The fastest, if it is worth it; of two that are equally fast, the first to be named in `Precision`."""
    rates = {name: rate for name in get_args(Precision) if (rate := speed.rate(name)) is not None}
    base = rates["float32"]
    chosen: Precision = "float32"
    for name, rate in rates.items():
        if rate >= WORTH * rates[chosen]:
            chosen = name
    ratios = ", ".join(f"{name} {rate / base:.2f} x float32" for name, rate in rates.items() if name != "float32")
    return Decided(value=chosen, reason=f"{_on(speed)}: {ratios or 'float32 alone'}", source=MEASURED)


def _gpu_precision(machine: Machine) -> Decided[Precision]:
    gpu = machine.weakest_gpu
    capability = f"{gpu.name} has compute capability {gpu.compute_capability}"
    if gpu.compute_capability >= BFLOAT16_COMPUTE_CAPABILITY:
        reason = f"{capability}; from {BFLOAT16_COMPUTE_CAPABILITY} on, tensor cores take bfloat16"
        return Decided(value="bfloat16", reason=reason, source=MACHINE)
    if gpu.compute_capability >= FLOAT16_COMPUTE_CAPABILITY:
        reason = f"{capability}: tensor cores take float16; bfloat16 wants {BFLOAT16_COMPUTE_CAPABILITY}"
        return Decided(value="float16", reason=reason, source=MACHINE)
    reason = f"{capability}; tensor cores come with {FLOAT16_COMPUTE_CAPABILITY}"
    return Decided(value="float32", reason=reason, source=MACHINE)


def _cpu_precision(machine: Machine) -> Decided[Precision]:
    if machine.cpu_bfloat16:
        return Decided(value="bfloat16", reason="this CPU multiplies bfloat16 natively", source=MACHINE)
    if "bf16" in machine.instruction_sets:
        reason = f"bfloat16 is not known to be faster on this CPU, which has instructions for it; {MEASURE}"
        return Decided(value="float32", reason=reason, source=MACHINE)
    return Decided(value="float32", reason="this CPU has no bfloat16 instructions", source=MACHINE)


def _on(speed: Speed) -> str:
    return f"measured by 'hyperrule doctor' on {speed.day}"


LIBRARIES = ("tensorflow", "keras", "numpy")  # those whose version can change a result
TPU_CORES = 8  # of one host: v2 and v3 boards, docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm


@dataclass(frozen=True)
class Running:
    """Decisions about the training of `backbone`, by as many `workers` with such a machine each; something else takes
    `besides` bytes of every device."""

    recipe: TrainingRecipe
    backbone: BackboneInfo
    machine: Machine
    workers: int
    besides: int = 0

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

    def pieces(self, crop: int, batch: int, precision: Precision) -> tuple[Decided[int], Decided[bool]]:
        """The micro-batch, and whether activations are kept or computed again."""
        asked = self.recipe.remat
        if asked and self.backbone.as_it_is is not None:
            raise RecipeError(f"--remat needs the units of a BiT; {self.backbone.name} runs as it is. Leave it out.")
        share = math.ceil(batch / (self.workers * self.devices))
        limit = self.recipe.memory_limit
        least = self.besides + memory_bytes(
            self.backbone, crop, 1, precision, remat=self.backbone.as_it_is is None and asked is None
        )
        if limit is not None and limit < least:
            raise RecipeError(
                f"memory_limit must be at least {least / 2**30:.2f} GiB, what {self.backbone.name} takes for one image "
                f"of {crop} px at a time. Received: {limit / 2**30:.3g} GiB. Take a smaller --crop or --backbone."
            )
        size, recomputed = fit(self.backbone, crop, share, precision, self.machine, limit, asked, self.besides)
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


def versions_here() -> dict[str, str]:
    """Of what is installed and can change a result."""
    return {"hyperrule": __version__, **{library: installed_version(library) or "unknown" for library in LIBRARIES}}
