"""What a training step holds in memory at its peak, in named terms; which micro-batch fits.

The constants were fitted to the resident sets that `scripts/bench memory` measures and to what TensorFlow's allocator
had given out at each moment; fit them again when the step, the normalisation or TensorFlow changes what it keeps.
"""

from bisect import bisect_right

from hyperrule.backbones.bit.architecture import Convolution, Normalization, Unit
from hyperrule.backbones.info import BackboneInfo
from hyperrule.planning.cost import BYTES, MASTER
from hyperrule.support.wording import MIB

PROCESS = 730 * MIB  # Python, TensorFlow, and the code pages that a first step touches
GRAPH = 2 * MIB  # a convolution's share of traced and optimised graphs and of compiled kernels
FOREIGN_CONVOLUTIONS = 100  # a foreign network's are not counted

# Copies of all weights in float32: weights, velocity, standardised kernels, sums of gradients, and nearly two more
# that TensorFlow keeps from the first step on.
HELD = 5.8
WITH_ACTIVATIONS = 0.5  # gradients on their way to the sums, kernels in the compute type
AT_UPDATE = 3.5  # when no activation is left: gradients pulled back, with the intermediates of that

IN_FLIGHT = 3  # float32 tensors, each as large as the largest that a unit normalises, while its gradient is computed
FRAGMENTATION = 1.2  # of TensorFlow's CPU allocator, which gives nothing back: resident over given out
PIXELS_IN_FLIGHT = 4  # micro-batches of images: two prefetched, one in use, one being made


def memory_bytes(backbone: BackboneInfo, crop: int, micro_batch: int, precision: str, remat: bool = False) -> int:
    """Peak bytes of training on `micro_batch` crop x crop images at once; with `remat` each unit is computed once
    more in the backward pass, and only what it reads is kept."""
    weights = MASTER * backbone.parameters
    activations = micro_batch * _activation_bytes(backbone, crop, precision, remat)
    passing = max(activations + WITH_ACTIVATIONS * weights, AT_UPDATE * weights)
    pixels = PIXELS_IN_FLIGHT * micro_batch * MASTER * 3 * crop * crop
    return int(PROCESS + _graph_bytes(backbone) + FRAGMENTATION * (HELD * weights + passing + pixels))


def tensor_bytes(backbone: BackboneInfo, memory: int) -> int:
    """What `memory` bytes leave for tensors, beside the process and its graphs."""
    return max(MIB, memory - PROCESS - _graph_bytes(backbone))


def largest_fitting(
    backbone: BackboneInfo, crop: int, most: int, precision: str, memory: float, remat: bool = False
) -> int:
    """The largest micro-batch, of `most` images at most, that `memory` bytes hold; 0 if none."""
    sizes = range(1, most + 1)
    return bisect_right(sizes, memory, key=lambda size: memory_bytes(backbone, crop, size, precision, remat))


def _graph_bytes(backbone: BackboneInfo) -> int:
    network = backbone.network
    return GRAPH * (FOREIGN_CONVOLUTIONS if network is None else len(network.convolutions(32)))


def _activation_bytes(backbone: BackboneInfo, crop: int, precision: str, remat: bool) -> int:
    """Most that one image holds at once: what lower units keep, and all of the unit whose gradient is computed."""
    if (network := backbone.network) is None:
        return MASTER * backbone.activation_elements(crop)
    root = network.convolutions(crop)[0]
    kept = BYTES[precision] * (root.read_elements + root.written_elements)  # zero-padded, before it and before pooling
    peak = kept
    for unit, side in network.units_with_sides(crop):
        own = _unit_bytes(unit, side, precision)
        peak = max(peak, kept + own + _in_flight_bytes(unit, side))
        kept += BYTES[precision] * unit.inputs * side**2 if remat else own
    return max(peak, kept + _normalization_bytes(network.normalizations(crop)[-1].elements, precision))


def _unit_bytes(unit: Unit, side: int, precision: str) -> int:
    """What a unit's backward pass reads: input and output of each normalisation, and zero-padded copies."""
    layers = list(unit.layers(side))
    padded = sum(layer.read_elements for layer in layers if isinstance(layer, Convolution) and layer.is_padded)
    normalized = sum(layer.elements for layer in layers if isinstance(layer, Normalization))
    return BYTES[precision] * padded + _normalization_bytes(normalized, precision)


def _normalization_bytes(elements: int, precision: str) -> int:
    """Input and output."""
    return 2 * BYTES[precision] * elements


def _in_flight_bytes(unit: Unit, side: int) -> int:
    largest = max(layer.elements for layer in unit.layers(side) if isinstance(layer, Normalization))
    return IN_FLIGHT * MASTER * largest
