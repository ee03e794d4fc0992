"""What a training step and a whole training cost: operations, bytes moved, peak memory and time, without running it.

Operations and bytes: each part of the work is one kernel that reads its inputs from memory once and writes its outputs
once, the least that a device without fusion across kernels can do. Pooling, head, loss and the images themselves are
left out as small.

Memory: the peak of a training step, as a sum of named terms. Their constants were fitted to the resident sets that
`scripts/bench memory` measures and to what TensorFlow's allocator had given out at each moment. Fit them again when
the step, the normalisation or TensorFlow changes what it keeps.

Time: operations over the CPU's measured rate, times an efficiency that was measured once.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.bit.architecture import Addition, Architecture, Convolution, Layer, Normalization, Unit
from hyperrule.backbones.info import BackboneInfo
from hyperrule.planning.machine.machine import Machine
from hyperrule.support.wording import MIB

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MASTER = BYTES["float32"]  # weights, their gradients and the momentum, whatever the precision

# How often `group_norm_relu` reads or writes an activation. Forward: x for the sums, x and y for the output. Backward:
# x, y and dy for the sums, the same and dx for the output.
NORMALIZATION_FORWARD = 3
NORMALIZATION_BACKWARD = 7
ADDITION = 3  # two terms and their sum; the same for the gradients that meet at a unit's input

# How often a step reads or writes all weights in float32: standardise (read twice, write), pull the gradient back
# (gradient, weights, result), SGD with momentum (gradient, velocity and weights in, velocity and weights out).
STANDARDIZATION = 3
PULL_BACK = 3
OPTIMIZER = 5
ACCUMULATION = 3  # gradient and accumulator in, accumulator out; once a micro-batch, where there are several

PROCESS = 730 * MIB  # Python, TensorFlow, and the code pages that a first step touches
GRAPH = 2 * MIB  # a convolution's share of traced and optimised graphs and of compiled kernels
FOREIGN_CONVOLUTIONS = 100  # assumed for a foreign network, whose convolutions are not counted

# Copies of all weights in float32: weights, velocity, standardised kernels, sums of gradients, and nearly two more
# that TensorFlow keeps from the first step on.
HELD = 5.8
WITH_ACTIVATIONS = 0.5  # gradients on their way to the sums, kernels in the compute type
AT_UPDATE = 3.5  # gradients through the standardisation and their intermediates; by then no activation is left

IN_FLIGHT = 3  # float32 tensors, each as large as the largest that a unit normalises, while its gradient is computed
FRAGMENTATION = (
    1.2  # resident bytes over bytes given out by TensorFlow's CPU allocator, which returns none to the system
)
PIXELS_IN_FLIGHT = 4  # micro-batches of images: two prefetched, one in use, one being made

# Fractions of the float32 matrix product's rate, measured with R26x0.5 (batch 64) and R50x1 (batch 16) at 128 px on
# 2 cores with AVX512-BF16. A float32 training step ran at 0.52 and 0.53, in bfloat16 1.2 to 1.6 times as fast
# (docs/speed.md); a float32 forward pass at 0.53 and 0.72. The value for float16, for which CPUs have no instructions,
# is a guess.
TRAINING_EFFICIENCY = {"float32": 0.52, "bfloat16": 0.72, "float16": 0.02}
INFERENCE_EFFICIENCY = 0.55

SHARE_OF_MEMORY = 0.8  # estimates of memory are within 25 % of measurements
CPU_MICRO_BATCH = 64  # larger ones are no faster on a CPU
INFERENCE_BATCH = 32  # at most; larger ones are hardly faster

# R50x1, float32, 128 px: compared with micro-batches of 16, an image takes 1.90, 1.46, 1.23 and 1.03 times the CPU
# seconds in micro-batches of 1, 2, 4 and 8, since each micro-batch adds up gradients of all weights. Recomputing the
# units takes 1.18 times the seconds.
PIXELS_OF_MICRO_BATCH = 0.9 * 128**2  # pixels that take as long as the fixed cost of one micro-batch
RECOMPUTATION = 1.18

Kind = Literal["convolution", "normalization", "addition", "weights"]


@dataclass(frozen=True)
class Work:
    """One kernel: arithmetic operations (a multiply-add is two) and bytes between memory and processor."""

    kind: Kind
    operations: int
    bytes: int


def forward_pass(architecture: Architecture, crop: int, images: int, precision: str) -> Iterator[Work]:
    """Yield the kernels of one forward pass of `images` crop x crop images, with weights in the compute type."""
    for layer in architecture.layers(crop):
        yield _forward(layer, images, BYTES[precision])


def training_step(
    architecture: Architecture, crop: int, batch: int, precision: str, micro_batches: int = 1, remat: bool = False
) -> Iterator[Work]:
    """Yield the kernels of one training step on `batch` images in `micro_batches` equal parts.

    With `remat` most of each unit runs forward twice.
    """
    width, images = BYTES[precision], batch // micro_batches
    for _ in range(micro_batches):
        yield from forward_pass(architecture, crop, images, precision)
        root, *others = architecture.layers(crop)
        yield _forward(root, images, width)  # gradient of the filter only: images need none
        for layer in others:
            yield from _backward(layer, images, width)
        if remat:
            for unit, side in architecture.units_with_sides(crop):
                yield from (_forward(layer, images, width) for layer in unit.recomputed_layers(side))
    passes = STANDARDIZATION + PULL_BACK + OPTIMIZER + (ACCUMULATION * micro_batches if micro_batches > 1 else 0)
    yield Work("weights", 0, passes * MASTER * architecture.parameters)


def total(work: Iterable[Work], kind: Kind | None = None) -> Work:
    """Return the sum of all work, or of the kernels of one kind."""
    chosen = [part for part in work if kind in (None, part.kind)]
    return Work(kind or "weights", sum(part.operations for part in chosen), sum(part.bytes for part in chosen))


def _forward(layer: Layer, images: int, width: int) -> Work:
    match layer:
        case Convolution():
            activations = layer.read_elements + layer.written_elements
            moved = images * activations + layer.weights
            return Work("convolution", 2 * images * layer.multiply_adds, width * moved)
        case Normalization():
            return Work("normalization", 0, width * images * NORMALIZATION_FORWARD * layer.elements)
        case Addition():
            return Work("addition", 0, width * images * ADDITION * layer.elements)


def _backward(layer: Layer, images: int, width: int) -> Iterator[Work]:
    match layer:
        case Convolution():  # gradients of input and of filter: each reads two of three tensors, writes the third
            yield _forward(layer, images, width)
            yield _forward(layer, images, width)
        case Normalization():
            yield Work("normalization", 0, width * images * NORMALIZATION_BACKWARD * layer.elements)
        case Addition():
            yield Work("addition", 0, width * images * ADDITION * layer.elements)


def memory_bytes(backbone: BackboneInfo, crop: int, micro_batch: int, precision: str, remat: bool = False) -> int:
    """Return the peak bytes of training with micro-batches of `micro_batch` crop x crop images.

    With `remat` only each unit's input is kept, and the unit is computed again in the backward pass.
    """
    weights = MASTER * backbone.parameters
    activations = micro_batch * _activation_bytes(backbone, crop, precision, remat)
    passing = max(activations + WITH_ACTIVATIONS * weights, AT_UPDATE * weights)
    pixels = PIXELS_IN_FLIGHT * micro_batch * MASTER * 3 * crop * crop
    return int(PROCESS + _graph_bytes(backbone) + FRAGMENTATION * (HELD * weights + passing + pixels))


def tensor_bytes(backbone: BackboneInfo, memory: int) -> int:
    """Return the bytes left for tensors out of `memory`, after the process and its graphs."""
    return max(MIB, memory - PROCESS - _graph_bytes(backbone))


def largest_fitting(
    backbone: BackboneInfo, crop: int, most: int, precision: str, memory: float, remat: bool = False
) -> int:
    """Return the largest micro-batch, up to `most` images, that fits in `memory` bytes; 0 if none does."""
    sizes = range(1, most + 1)
    return bisect_right(sizes, memory, key=lambda size: memory_bytes(backbone, crop, size, precision, remat))


def _graph_bytes(backbone: BackboneInfo) -> int:
    network = backbone.network
    return GRAPH * (FOREIGN_CONVOLUTIONS if network is None else len(network.convolutions(32)))


def _activation_bytes(backbone: BackboneInfo, crop: int, precision: str, remat: bool) -> int:
    """Return the peak bytes of one image: what lower units keep, plus all of the unit whose gradient is computed."""
    if (network := backbone.network) is None:
        return MASTER * backbone.activation_elements(crop)
    root = network.convolutions(crop)[0]
    kept = BYTES[precision] * (
        root.read_elements + root.written_elements
    )  # the zero-padded inputs of the root and of pooling
    peak = kept
    for unit, side in network.units_with_sides(crop):
        own = _unit_bytes(unit, side, precision)
        peak = max(peak, kept + own + _in_flight_bytes(unit, side))
        kept += BYTES[precision] * unit.inputs * side**2 if remat else own
    return max(peak, kept + _normalization_bytes(network.normalizations(crop)[-1].elements, precision))


def _unit_bytes(unit: Unit, side: int, precision: str) -> int:
    """Return the bytes that a unit's backward pass reads: each normalisation's input and output, zero-padded copies."""
    layers = list(unit.layers(side))
    padded = sum(layer.read_elements for layer in layers if isinstance(layer, Convolution) and layer.is_padded)
    normalized = sum(layer.elements for layer in layers if isinstance(layer, Normalization))
    return BYTES[precision] * padded + _normalization_bytes(normalized, precision)


def _normalization_bytes(elements: int, precision: str) -> int:
    """Return the bytes of input and output of a normalisation of `elements` elements."""
    return 2 * BYTES[precision] * elements


def _in_flight_bytes(unit: Unit, side: int) -> int:
    largest = max(layer.elements for layer in unit.layers(side) if isinstance(layer, Normalization))
    return IN_FLIGHT * MASTER * largest


class Estimate(BaseModel):
    """Cost of a plan on its machine. Memory is in bytes.

    Seconds are None where they cannot be estimated: a GPU's speed is measured only when it runs.
    """

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
    """Return the micro-batch that a device takes of its `share` of the batch, and whether it recomputes activations.

    The share is split into as few equal parts as fit in 80 % of the device's memory, or of `limit` bytes if that is
    less, beside `besides` bytes that something else takes. `remat` decides whether activations are recomputed; if it is
    None, they are where nothing else fits or where that is faster. The micro-batch is 1 if not even that seems to fit.
    """
    available = min(gpu.usable_memory for gpu in machine.gpus) if machine.gpus else machine.available_memory
    room = SHARE_OF_MEMORY * (available if limit is None else min(limit, available)) - besides
    most = share if machine.gpus else min(share, CPU_MICRO_BATCH)
    kept, again = (largest_fitting(backbone, crop, most, precision, room, each) for each in (False, True))
    if remat is None:
        remat = backbone.network is not None and _recomputation_pays(backbone, crop, precision, kept, again)
    parts = math.ceil(share / max(1, again if remat else kept))
    return math.ceil(share / parts), remat


def fit_inference(backbone: BackboneInfo, crop: int, examples: int, machine: Machine) -> int:
    """Images that a device takes at once through the float32 network, of so many `examples`."""
    return fit(backbone, crop, min(INFERENCE_BATCH, examples), "float32", machine)[0]


def _recomputation_pays(backbone: BackboneInfo, crop: int, precision: str, kept: int, again: int) -> bool:
    """Whether recomputing is faster, given the largest micro-batches without (`kept`) and with it (`again`).

    Where no micro-batch fits without it: whether it needs less memory.
    """
    if not kept:
        without, recomputed = (memory_bytes(backbone, crop, 1, precision, remat) for remat in (False, True))
        return recomputed < without
    return RECOMPUTATION * _time_of_pixel(again, crop) < _time_of_pixel(kept, crop)


def _time_of_pixel(micro_batch: int, crop: int) -> float:
    """Return the time of a pixel, relative to that in an infinitely large micro-batch."""
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
    """Estimate the cost of `steps` steps and of an evaluation on `tests` images.

    `passes` is the work of one step in forward passes: 3 with a backward pass, 1 for a head alone. `remat` says
    whether activations are recomputed.
    """
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
        else f"{training / 1e9:.2f} GFLOP per image and step; "
        f"this CPU multiplies matrices at {machine.gigaflops:.0f} GFLOP/s",
    )


def estimate_inference(backbone: BackboneInfo, crop: int, images: int, machine: Machine) -> float | None:
    """Return the seconds of forward passes on `images` images; None on GPUs, which are not estimated."""
    forward = 2 * backbone.multiply_adds(crop)
    return None if machine.gpus else images * forward / (machine.gigaflops * 1e9) / INFERENCE_EFFICIENCY


def _training_operations(backbone: BackboneInfo, crop: int, remat: bool) -> int:
    """Return the operations of one image, forward and backward."""
    if (network := backbone.network) is None:
        return 3 * 2 * backbone.multiply_adds(crop)
    return total(training_step(network, crop, 1, "float32", remat=remat)).operations
