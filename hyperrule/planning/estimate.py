"""What a plan will cost: steps, images, memory and time, from operation counts."""

import math

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.info import BackboneInfo
from hyperrule.planning.machine import Machine

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Measured with R26x0.5 (batch 64) and R50x1 (batch 16) at 128 px on 2 cores with AVX512-BF16, as
# fractions of the float32 matrix product: a training step ran at 0.52 and 0.53 in float32, 0.83 in
# bfloat16 for both; a float32 forward pass at 0.53 and 0.72.
TRAINING_EFFICIENCY = {"float32": 0.52, "bfloat16": 0.83, "float16": 0.02}
INFERENCE_EFFICIENCY = 0.55

PROCESS_BYTES = 900 * 2**20  # Python with TensorFlow and its thread pools
COPIES_OF_WEIGHTS = 7  # weights, velocity, standardised, gradient, folded copy, and two in flight at the update
ACTIVATION_FACTOR = 1.6  # kept activations to peak: gradients and buffers of the units in flight
SHARE_OF_MEMORY = 0.6
CPU_MICRO_BATCH = 64  # larger ones are no faster on a CPU


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


def memory_bytes(backbone: BackboneInfo, crop: int, micro_batch: int, precision: str) -> int:
    """Peak memory of training with one micro-batch in flight."""
    weights = COPIES_OF_WEIGHTS * 4 * backbone.parameters
    activations = ACTIVATION_FACTOR * BYTES[precision] * micro_batch * backbone.activation_elements(crop)
    pixels = 4 * 4 * micro_batch * 3 * crop * crop  # two prefetched, one in flight, one being made
    return int(PROCESS_BYTES + weights + activations + pixels)


def fit(
    backbone: BackboneInfo,
    crop: int,
    share: int,
    precision: str,
    machine: Machine,
    limit: int | None = None,
    remat: bool | None = None,
) -> tuple[int, bool]:
    """Of a device's `share` of the batch, the examples it takes at once, and whether activations are recomputed."""
    available = min(gpu.usable_memory for gpu in machine.gpus) if machine.gpus else machine.available_memory
    room = SHARE_OF_MEMORY * available if limit is None else min(limit, available)
    most = share if machine.gpus else min(share, CPU_MICRO_BATCH)
    fitting = (size for size in range(most, 0, -1) if memory_bytes(backbone, crop, size, precision) <= room)
    parts = math.ceil(share / next(fitting, 1))
    return math.ceil(share / parts), bool(remat)


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
) -> Estimate:
    """`passes` over the network a step, in forward passes: 3 with a backward pass, 1 for a head alone."""
    multiply_adds = backbone.multiply_adds(crop)
    images = steps * batch
    forward_seconds = 2 * multiply_adds / (machine.gigaflops * 1e9)
    on_gpu = bool(machine.gpus)
    return Estimate(
        steps=steps,
        images=images,
        parameters=backbone.parameters,
        memory=memory_bytes(backbone, crop, micro_batch, precision),
        training_seconds=None if on_gpu else passes * images * forward_seconds / TRAINING_EFFICIENCY[precision],
        evaluation_seconds=None if on_gpu else tests * forward_seconds / INFERENCE_EFFICIENCY,
        basis="not estimated for GPUs; the progress display measures it"
        if on_gpu
        else f"{2 * passes * multiply_adds / 1e9:.2f} GFLOP an image and step; "
        f"this CPU multiplies matrices at {machine.gigaflops:.0f} GFLOP/s",
    )
