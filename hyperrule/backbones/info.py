"""Facts about a backbone that are known before it is loaded, among them the range of its pixels; no TensorFlow."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from hyperrule.backbones.bit.architecture import Architecture

Kind = Literal["embedded", "bucket", "hub", "package", "file", "random"]
InputRange = tuple[float, float]
INPUT_RANGES: tuple[InputRange, ...] = ((0, 1), (-1, 1), (0, 255))
BIT_RANGE: InputRange = (-1, 1)  # of every native BiT network: google-research/big_transfer, `bit_tf2/train.py`


def parse_input_range(received: Any) -> Any:
    """Parse "0,1", "-1,1" or "0,255", or the two numbers; None stays None. Raises ValueError for anything else.

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


class OpaqueNetwork(BaseModel):
    """A SavedModel that is not a BiT and runs as an opaque graph.

    `trainable` is False if it can only extract features. `side` is the only image side in pixels that it takes, None
    for any. `keeps_statistics` says that training changes variables without a gradient (batch norm),
    `draws_random_numbers` that it has dropout or the like, whose state no checkpoint can hold. `penalties` is the
    number of its own regularisation losses. `multiply_adds` and `activation_elements` are for one image of
    `measured_at` x `measured_at` pixels.
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
    """Facts of a backbone that the plan needs, and the run to load it.

    `path` is the .npz or the SavedModel folder that is loaded, `sha256` the hash of that file, or of the SavedModel
    that it was made from; both are None for random weights, and in a plan for weights that are not downloaded yet.
    `opaque` holds the facts of an opaque graph, None for a BiT; `depth` and `width` are None for an opaque graph.
    `input_range` is that of the network's pixels; the classifier converts images to it.
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
        """The BiT architecture; None for an opaque graph."""
        return None if self.depth is None or self.width is None else Architecture(self.depth, self.width)

    def multiply_adds(self, crop: int) -> int:
        """Return the multiply-adds of a forward pass of one crop x crop image."""
        if self.opaque is None:
            return Architecture(self.depth, self.width).multiply_adds(crop)  # type: ignore[arg-type]
        return int(self.opaque.multiply_adds * (crop / self.opaque.measured_at) ** 2)

    def activation_elements(self, crop: int) -> int:
        """Return the number of activations that the backward pass needs of one crop x crop image."""
        if self.opaque is None:
            return Architecture(self.depth, self.width).activation_elements(crop)  # type: ignore[arg-type]
        return int(self.opaque.activation_elements * (crop / self.opaque.measured_at) ** 2)


class ModuleFacts(BaseModel):
    """Facts of a SavedModel folder; `sha256` is over its graph and variables.

    A BiT has `depth`, `width`, `weights` (the .npz with its arrays), `matched_by` ("names" or "order" of its
    variables), and `differences`: the largest difference of the native network's features from the module's, relative
    to the largest value, at two image sizes. `failed_proof` says why a module that looked like a BiT is not one.
    Any other module has `opaque`. `own_range` is the input range that the module proves or states. `deviations` are,
    for each candidate range, the distance of the mean of real photographs from the mean of the training images at its
    first batch norm, in standard deviations.
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
