"""The BiT ResNet-v2 on paper: its units, arrays and cost, without TensorFlow.

Structure and array names: google-research/big_transfer, `bit_tf2/models.py` and
`bit_pytorch/models.py`; "R26" (two units a block) is hyperrule's own small network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

UNITS_PER_BLOCK: dict[int, tuple[int, int, int, int]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BLOCKS = 4
GROUPS = 32  # groups of every GroupNorm (arXiv 1912.11370, section 3.1: Wu & He's default)


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

    def multiply_adds(self, crop: int) -> int:
        """Multiply-adds of the convolutions for one forward pass of one crop x crop image."""
        return sum(positions * weights for positions, weights in self._convolutions(crop))

    def activation_elements(self, crop: int) -> int:
        """Elements that one crop x crop image keeps for the backward pass (each convolution's
        input and each normalisation's input)."""
        side = _half(crop)
        total = 3 * crop * crop + side * side * self.root_channels
        side = _half(side)
        for unit in self.units:
            inner = _half(side) if unit.stride == 2 else side
            total += 2 * side * side * unit.inputs  # unit input and its normalised copy
            total += 2 * side * side * unit.mid  # output of a, normalised
            total += 2 * inner * inner * unit.mid  # output of b, normalised
            total += inner * inner * unit.out * (2 if unit.has_projection else 1)
            side = inner
        return total + 2 * side * side * self.features

    def _convolutions(self, crop: int) -> Iterator[tuple[int, int]]:
        """(output positions, kernel elements) of every convolution."""
        side = _half(crop)
        yield side * side, prod(self.array_shapes["resnet/root_block/standardized_conv2d/kernel"])
        side = _half(side)
        for unit in self.units:
            yield side * side, unit.inputs * unit.mid
            side = _half(side) if unit.stride == 2 else side
            yield side * side, 9 * unit.mid * unit.mid
            yield side * side, unit.mid * unit.out
            if unit.has_projection:
                yield side * side, unit.inputs * unit.out


def _half(side: int) -> int:
    """Output side of a padded stride-2 convolution or pooling."""
    return (side + 1) // 2
