"""What a plan will cost: steps, images, memory and time, from operation counts."""

import math

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.info import BackboneInfo
from hyperrule.planning.cost import total, training_step
from hyperrule.planning.machine import Machine
from hyperrule.planning.memory import largest_fitting, memory_bytes

# Measured with R26x0.5 (batch 64) and R50x1 (batch 16) at 128 px on 2 cores with AVX512-BF16, as
# fractions of the float32 matrix product: a training step ran at 0.52 and 0.53 in float32, in bfloat16 1.2 to 1.6 times
# as fast (docs/speed.md); a float32 forward pass at 0.53 and 0.72.
# float16, for which CPUs have no instructions, is a guess.
TRAINING_EFFICIENCY = {"float32": 0.52, "bfloat16": 0.72, "float16": 0.02}
INFERENCE_EFFICIENCY = 0.55

SHARE_OF_MEMORY = 0.8  # estimates of memory are within 25 % of what is measured
CPU_MICRO_BATCH = 64  # larger ones are no faster on a CPU

# CPU seconds an image, R50x1, float32, 128 px, against micro-batches of 16: 1.90, 1.46, 1.23 and 1.03 times as many in
# micro-batches of 1, 2, 4 and 8, since each adds up gradients of all weights; 1.18 times with units recomputed.
PIXELS_OF_MICRO_BATCH = 0.9 * 128**2  # that would take as long as what each micro-batch costs anyway
RECOMPUTATION = 1.18


class Estimate(BaseModel):
    """Cost of a plan on its machine. Memory in bytes; seconds are None where they cannot be told
    beforehand (a GPU is measured only when it runs)."""

    model_config = ConfigDict(frozen=True)

    steps: int
    images: int
    parameters: int
    memory: int
    training_seconds: float | None
    evaluation_seconds: float | None
    basis: str


def fit(
    backbone: BackboneInfo,
    crop: int,
    share: int,
    precision: str,
    machine: Machine,
    limit: int | None = None,
    remat: bool | None = None,
    besides: int = 0,
) -> tuple[int, bool]:
    """Of a device's `share` of the batch, the examples it takes at once, and whether it computes activations again.

    The share is cut into as few equal parts as fit into 80 % of the device's memory, or of `limit` bytes where that is
    less, beside `besides` bytes that something else takes. Activations are computed again if `remat` says so; if it is
    None, where that is the only way to fit or the faster one. One example, if not even that seems to fit.
    """
    available = min(gpu.usable_memory for gpu in machine.gpus) if machine.gpus else machine.available_memory
    room = SHARE_OF_MEMORY * (available if limit is None else min(limit, available)) - besides
    most = share if machine.gpus else min(share, CPU_MICRO_BATCH)
    kept, again = (largest_fitting(backbone, crop, most, precision, room, each) for each in (False, True))
    if remat is None:
        remat = backbone.network is not None and _recomputation_pays(backbone, crop, precision, kept, again)
    parts = math.ceil(share / max(1, again if remat else kept))
    return math.ceil(share / parts), remat


def _recomputation_pays(backbone: BackboneInfo, crop: int, precision: str, kept: int, again: int) -> bool:
    """Whether it is faster, given the largest micro-batches without and with it; or needs less, where none fits."""
    if not kept:
        without, recomputed = (memory_bytes(backbone, crop, 1, precision, remat) for remat in (False, True))
        return recomputed < without
    return RECOMPUTATION * _time_of_pixel(again, crop) < _time_of_pixel(kept, crop)


def _time_of_pixel(micro_batch: int, crop: int) -> float:
    """Against that of an endless micro-batch."""
    return 1 + PIXELS_OF_MICRO_BATCH / (micro_batch * crop**2)


def estimate_cost(
    backbone: BackboneInfo,
    crop: int,
    batch: int,
    micro_batch: int,
    steps: int,
    tests: int,
    precision: str,
    machine: Machine,
    passes: int = 3,
    remat: bool = False,
) -> Estimate:
    """`passes` over the network a step, in forward passes: 3 with a backward pass, 1 for a head alone; `remat` as
    for `fit`."""
    images = steps * batch
    forward = 2 * backbone.multiply_adds(crop)
    training = _training_operations(backbone, crop, remat) if passes > 1 else forward
    rate = machine.gigaflops * 1e9
    on_gpu = bool(machine.gpus)
    return Estimate(
        steps=steps,
        images=images,
        parameters=backbone.parameters,
        memory=memory_bytes(backbone, crop, micro_batch, precision, remat),
        training_seconds=None if on_gpu else images * training / rate / TRAINING_EFFICIENCY[precision],
        evaluation_seconds=estimate_inference(backbone, crop, tests, machine),
        basis="not estimated for GPUs; the progress display measures it"
        if on_gpu
        else f"{training / 1e9:.2f} GFLOP an image and step; "
        f"this CPU multiplies matrices at {machine.gigaflops:.0f} GFLOP/s",
    )


def estimate_inference(backbone: BackboneInfo, crop: int, images: int, machine: Machine) -> float | None:
    """Seconds of forward passes; None where they cannot be told."""
    forward = 2 * backbone.multiply_adds(crop)
    return None if machine.gpus else images * forward / (machine.gigaflops * 1e9) / INFERENCE_EFFICIENCY


def _training_operations(backbone: BackboneInfo, crop: int, remat: bool) -> int:
    """Of one image, forward and backward."""
    if (network := backbone.network) is None:
        return 3 * 2 * backbone.multiply_adds(crop)
    return total(training_step(network, crop, 1, "float32", remat=remat)).operations
