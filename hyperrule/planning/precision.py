"""What `--precision auto` and `--xla auto` choose: by measurement where there is one, else by what is known."""

from typing import get_args

from hyperrule.planning.machine.machine import Machine
from hyperrule.planning.machine.speed import Speed
from hyperrule.planning.training_plan import Decided, Precision

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
