"""Operations and bytes of a forward pass and of a training step, on paper.

Each part of the work is one kernel that reads its inputs from memory once and writes its outputs once: the least that
a device without fusion across kernels can do. Left out as small: pooling, head, loss and the images themselves.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from hyperrule.backbones.bit.architecture import Addition, Architecture, Convolution, Layer, Normalization

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

Kind = Literal["convolution", "normalization", "addition", "weights"]


@dataclass(frozen=True)
class Work:
    """One kernel: arithmetic operations (a multiply-add is two) and bytes between memory and processor."""

    kind: Kind
    operations: int
    bytes: int


def forward_pass(architecture: Architecture, crop: int, images: int, precision: str) -> Iterator[Work]:
    """Kernels of one forward pass of `images` crop x crop images, weights in the compute type."""
    for layer in architecture.layers(crop):
        yield _forward(layer, images, BYTES[precision])


def training_step(
    architecture: Architecture, crop: int, batch: int, precision: str, micro_batches: int = 1, remat: bool = False
) -> Iterator[Work]:
    """Kernels of one step on `batch` images in `micro_batches` equal parts; with `remat` most of each unit
    runs forward twice."""
    width, images = BYTES[precision], batch // micro_batches
    for _ in range(micro_batches):
        yield from forward_pass(architecture, crop, images, precision)
        root, *others = architecture.layers(crop)
        yield _forward(root, images, width)  # by filter only: images need no gradient
        for layer in others:
            yield from _backward(layer, images, width)
        if remat:
            for unit, side in architecture.units_with_sides(crop):
                yield from (_forward(layer, images, width) for layer in unit.recomputed_layers(side))
    passes = STANDARDIZATION + PULL_BACK + OPTIMIZER + (ACCUMULATION * micro_batches if micro_batches > 1 else 0)
    yield Work("weights", 0, passes * MASTER * architecture.parameters)


def total(work: Iterable[Work], kind: Kind | None = None) -> Work:
    """Sum of all work, or of one kind of it."""
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
        case Convolution():  # by input and by filter: each reads two of the same three tensors and writes the third
            yield _forward(layer, images, width)
            yield _forward(layer, images, width)
        case Normalization():
            yield Work("normalization", 0, width * images * NORMALIZATION_BACKWARD * layer.elements)
        case Addition():
            yield Work("addition", 0, width * images * ADDITION * layer.elements)
