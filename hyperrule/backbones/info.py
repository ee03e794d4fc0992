"""Facts about a backbone, known before it is loaded; no TensorFlow.

What pixels a network takes: known ranges, and how people write them.
"""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.bit.architecture import Architecture

InputRange = tuple[float, float]
INPUT_RANGES: tuple[InputRange, ...] = ((0, 1), (-1, 1), (0, 255))
BIT_RANGE: InputRange = (-1, 1)  # of every BiT network inside: google-research/big_transfer, `bit_tf2/train.py`


def parse_input_range(received: Any) -> Any:
    """ "0,1", "-1,1" or "0,255", or the two numbers; None stays None. Raises ValueError for anything else.

    >>> parse_input_range("-1,1"), parse_input_range([0, 255])
    ((-1, 1), (0, 255))
    """
    if received is None:
        return None
    numbers = received if isinstance(received, list | tuple) else ()
    text = received if isinstance(received, str) else ",".join(map(_number, numbers))
    for known in INPUT_RANGES:
        if re.sub(r"[\s\[\]()]", "", text) == flag_value(known):
            return known
    raise ValueError("must be 0,1 or -1,1 or 0,255")


def shown_range(input_range: InputRange) -> str:
    """
    >>> shown_range((0, 255))
    '[0, 255]'
    """
    return f"[{input_range[0]:g}, {input_range[1]:g}]"


def flag_value(input_range: InputRange) -> str:
    """
    >>> flag_value((-1.0, 1.0))
    '-1,1'
    """
    return f"{input_range[0]:g},{input_range[1]:g}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else "?"


Kind = Literal["embedded", "bucket", "hub", "package", "file", "random"]


class OpaqueNetwork(BaseModel):
    """A SavedModel that is no BiT and runs in its own graph.

    `trainable` is False where it can only extract features. `side` is the one image side in pixels
    that it takes, None if any. `keeps_statistics` says that training changes variables that have no
    gradient (batch norm), `draws_random_numbers` that it has dropout or the like, whose state no checkpoint
    can hold. `penalties` are the regularisation losses that it adds of its own.
    Costs are those of one image of `measured_at` x `measured_at` pixels.
    """

    model_config = ConfigDict(frozen=True)

    trainable: bool
    side: int | None
    keeps_statistics: bool
    draws_random_numbers: bool
    penalties: int
    multiply_adds: int
    activation_elements: int
    measured_at: int


class BackboneInfo(BaseModel):
    """What the plan needs to know of a backbone, and the run to load it.

    `path` is the .npz or the SavedModel folder that is loaded, `sha256` the hash of that file, or of the
    SavedModel that it came from; both are None for random weights, and in a plan for weights that are not
    downloaded yet. `depth` and `width` are
    None for what runs `opaque`. `input_range` is what its network takes; images are converted to it
    inside the classifier.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    origin: str
    path: str | None
    sha256: str | None
    architecture: str
    depth: int | None
    width: float | None
    opaque: OpaqueNetwork | None
    features: int
    parameters: int
    input_range: InputRange
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> Architecture | None:
        """The BiT network that it is, or None."""
        return None if self.depth is None or self.width is None else Architecture(self.depth, self.width)

    def multiply_adds(self, crop: int) -> int:
        """For one forward pass of one crop x crop image."""
        if self.opaque is None:
            return Architecture(self.depth, self.width).multiply_adds(crop)  # type: ignore[arg-type]
        return int(self.opaque.multiply_adds * (crop / self.opaque.measured_at) ** 2)

    def activation_elements(self, crop: int) -> int:
        """Elements that one crop x crop image keeps for the backward pass."""
        if self.opaque is None:
            return Architecture(self.depth, self.width).activation_elements(crop)  # type: ignore[arg-type]
        return int(self.opaque.activation_elements * (crop / self.opaque.measured_at) ** 2)


class ModuleFacts(BaseModel):
    """A SavedModel folder, by the SHA-256 of its graph and variables.

    A BiT has `depth`, `width`, the .npz its arrays were written to, and `differences` (largest, of the
    largest value) of its features from the original's at two image sizes. Anything else runs `opaque`.
    `own_range` is the input range that the module itself proves or states; `deviations` are, for each
    candidate range, how far its first batch norm sees the mean of real photographs from where its training
    images were, in standard deviations.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    features: int
    parameters: int
    depth: int | None = None
    width: float | None = None
    weights: str | None = None
    matched_by: str | None = None
    differences: tuple[float, ...] = ()
    failed_proof: str | None = None
    own_range: InputRange | None = None
    deviations: tuple[tuple[InputRange, float], ...] = ()
    opaque: OpaqueNetwork | None = None
