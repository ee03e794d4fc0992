"""The architecture of BiT's ResNet-v2 as data: its units, arrays and cost; no TensorFlow.

Structure and array names: google-research/big_transfer, `bit_tf2/models.py` and
`bit_pytorch/models.py`; "R26" (two units a block) is hyperrule's own small network, "R14" (one) its smallest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

UNITS_PER_BLOCK: dict[int, tuple[int, int, int, int]] = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BLOCKS = 4
GROUPS = 32  # groups of every GroupNorm (arXiv 1912.11370, section 3.1: Wu & He's default)


@dataclass(frozen=True)
class Convolution:
    """A size x size convolution from `inputs` channels of read x read pixels to `filters` of written x written."""

    size: int
    inputs: int
    filters: int
    read: int
    written: int

    @property
    def weights(self) -> int:
        return self.size**2 * self.inputs * self.filters

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image, including those with the padding's zeros."""
        return self.written**2 * self.weights

    @property
    def is_padded(self) -> bool:
        """Whether it reads a zero-padded copy of its input (see `StandardizedConv2D`)."""
        return self.size > 1 and self.read != self.written

    @property
    def read_elements(self) -> int:
        return self.read**2 * self.inputs

    @property
    def written_elements(self) -> int:
        return self.written**2 * self.filters


@dataclass(frozen=True)
class Normalization:
    """GroupNorm and ReLU over `channels` of side x side pixels."""

    channels: int
    side: int

    @property
    def elements(self) -> int:
        return self.side**2 * self.channels


@dataclass(frozen=True)
class Addition:
    """The sum of a unit's branch and its shortcut, each with `channels` of side x side pixels."""

    channels: int
    side: int

    @property
    def elements(self) -> int:
        """Elements of the sum."""
        return self.side**2 * self.channels


Layer = Convolution | Normalization | Addition


@dataclass(frozen=True)
class Unit:
    """One pre-activation bottleneck unit: 1x1 to `mid`, 3x3 with `stride`, 1x1 to `out` channels."""

    block: int
    name: str
    stride: int
    inputs: int
    mid: int
    out: int

    @property
    def has_projection(self) -> bool:
        return self.inputs != self.out

    def output_side(self, side: int) -> int:
        return _half(side) if self.stride == 2 else side

    def layers(self, side: int) -> Iterator[Layer]:
        """Yield the unit's layers in execution order, for an input of side x side pixels."""
        smaller = self.output_side(side)
        yield Normalization(self.inputs, side)
        if self.has_projection:
            yield Convolution(1, self.inputs, self.out, side, smaller)
        yield Convolution(1, self.inputs, self.mid, side, side)
        yield Normalization(self.mid, side)
        yield Convolution(3, self.mid, self.mid, side, smaller)
        yield Normalization(self.mid, smaller)
        yield Convolution(1, self.mid, self.out, smaller, smaller)
        yield Addition(self.out, smaller)

    def recomputed_layers(self, side: int) -> Iterator[Layer]:
        """Yield the layers that run again if only the unit's input is kept: the backward pass reads their outputs."""
        for layer in self.layers(side):
            if isinstance(layer, Normalization) or (isinstance(layer, Convolution) and layer.filters == self.mid):
                yield layer


@dataclass(frozen=True)
class Architecture:
    """A BiT network by depth and width factor, e.g. `Architecture(50, 1)` is R50x1.

    Raises ValueError for a depth that is not 26, 50, 101 or 152, or a width that does not keep
    32 groups (64 x width must be a multiple of 32).
    """

    depth: int
    width: float

    def __post_init__(self) -> None:
        if self.depth not in UNITS_PER_BLOCK:
            raise ValueError(f"depth must be one of {sorted(UNITS_PER_BLOCK)}. Received: {self.depth}")
        if self.width <= 0 or (64 * self.width) % GROUPS:
            raise ValueError(f"width must be a multiple of 0.5, to keep 32 groups. Received: {self.width}")

    def __str__(self) -> str:
        return f"R{self.depth}x{self.width:g}"

    @property
    def root_channels(self) -> int:
        return int(64 * self.width)

    @property
    def features(self) -> int:
        """Width of the pooled features (2048 x width)."""
        return int(2048 * self.width)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        return tuple(self._walk())

    def _walk(self) -> Iterator[Unit]:
        inputs = self.root_channels
        for block, count in enumerate(UNITS_PER_BLOCK[self.depth]):
            mid = self.root_channels * 2**block
            for index in range(count):
                stride = 2 if block > 0 and index == 0 else 1
                yield Unit(block + 1, f"block{block + 1}/unit{index + 1:02d}", stride, inputs, mid, 4 * mid)
                inputs = 4 * mid

    @cached_property
    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Checkpoint array names and shapes (kernels HWIO), head excluded."""
        shapes: dict[str, tuple[int, ...]] = {
            "resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, self.root_channels)
        }
        for unit in self.units:
            stages = {
                "a": (1, unit.inputs, unit.mid),
                "b": (3, unit.mid, unit.mid),
                "c": (1, unit.mid, unit.out),
            }
            for stage, (size, inputs, out) in stages.items():
                prefix = f"resnet/{unit.name}/{stage}"
                shapes[f"{prefix}/group_norm/gamma"] = (inputs,)
                shapes[f"{prefix}/group_norm/beta"] = (inputs,)
                shapes[f"{prefix}/standardized_conv2d/kernel"] = (size, size, inputs, out)
            if unit.has_projection:
                shapes[f"resnet/{unit.name}/a/proj/standardized_conv2d/kernel"] = (1, 1, unit.inputs, unit.out)
        shapes["resnet/group_norm/gamma"] = (self.features,)
        shapes["resnet/group_norm/beta"] = (self.features,)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of trained scalars, head excluded."""
        return sum(prod(shape) for shape in self.array_shapes.values())

    def units_with_sides(self, crop: int) -> Iterator[tuple[Unit, int]]:
        """Yield every unit with the side in pixels of its input, for one crop x crop image."""
        side = _half(_half(crop))  # root convolution and max pooling
        for unit in self.units:
            yield unit, side
            side = unit.output_side(side)

    def layers(self, crop: int) -> Iterator[Layer]:
        """Yield all layers in execution order for one crop x crop image, except pooling and head, which are cheap."""
        yield Convolution(7, 3, self.root_channels, crop, _half(crop))
        for unit, side in self.units_with_sides(crop):
            yield from unit.layers(side)
        yield Normalization(self.features, unit.output_side(side))

    def convolutions(self, crop: int) -> list[Convolution]:
        return [layer for layer in self.layers(crop) if isinstance(layer, Convolution)]

    def normalizations(self, crop: int) -> list[Normalization]:
        return [layer for layer in self.layers(crop) if isinstance(layer, Normalization)]

    def multiply_adds(self, crop: int) -> int:
        """Multiply-adds of the convolutions for one forward pass of one crop x crop image."""
        return sum(convolution.multiply_adds for convolution in self.convolutions(crop))

    def activation_elements(self, crop: int) -> int:
        """Number of activations that the backward pass needs of one crop x crop image.

        These are the input and the output of each normalisation (the latter is the next convolution's input), and the
        zero-padded copies before stride 2.
        """
        root = self.convolutions(crop)[0]
        padded = sum(layer.read_elements for layer in self.convolutions(crop) if layer.is_padded)
        return padded + root.written_elements + 2 * sum(layer.elements for layer in self.normalizations(crop))


def _half(side: int) -> int:
    """Return the output side of a padded stride-2 convolution or pooling."""
    return (side + 1) // 2
