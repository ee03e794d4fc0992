"""Is this SavedModel a BiT? Its variables, matched to BiT's arrays by name, or by shape and order alone.

Every match is a guess until `inspection` has compared outputs; no TensorFlow here.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from hyperrule.backbones.bit.architecture import UNITS_PER_BLOCK, Architecture
from hyperrule.backbones.bit.checkpoints import HEAD

Shape = tuple[int, ...]
BETA_OF = {"gamma": "beta", "beta": "gamma"}


@dataclass(frozen=True)
class Match:
    """Variables of a SavedModel as a BiT: the index of each array's variable, by array name.

    `how` is "names" or "order". A head is in it where the SavedModel has one.
    """

    architecture: Architecture
    how: str
    variables: Mapping[str, int]


def matches(names: Sequence[str], shapes: Sequence[Shape]) -> Iterator[Match]:
    """Every way in which the variables could be a BiT's, the likeliest first; none if they are not.

    Names may have prefixes, ":0" and numbered suffixes. If they say nothing, variables of one shape
    are taken in their order, in each of the orders in which BiT networks are known to be built.
    """
    for architecture in _architectures(shapes):
        head = _head(architecture, shapes)
        if (named := _by_name(architecture, names, shapes)) is not None:
            yield Match(architecture, "names", named | head)
            continue
        for ordered in _by_order(architecture, shapes):
            yield Match(architecture, "order", ordered | head)


def _architectures(shapes: Sequence[Shape]) -> Iterator[Architecture]:
    """Those of which every array has a variable of its shape, and which leave no other but a head."""
    present = Counter(shapes)
    widths = {shape[3] / 64 for shape in shapes if len(shape) == 4 and shape[:3] == (7, 7, 3) and shape[3] % 32 == 0}
    for depth, width in product(UNITS_PER_BLOCK, sorted(widths)):
        architecture = Architecture(depth, width)
        wanted = Counter(architecture.array_shapes.values())
        if wanted <= present and not any(len(shape) == 4 and shape[0] > 1 for shape in present - wanted):
            yield architecture


def _head(architecture: Architecture, shapes: Sequence[Shape]) -> dict[str, int]:
    """The last kernel from features to classes, and the bias that fits it; empty without."""
    left = Counter(shapes) - Counter(architecture.array_shapes.values())
    for *ones, inputs, classes in (shape for shape in left if len(shape) in (2, 4)):
        if inputs == architecture.features and set(ones) <= {1} and (classes,) in left:
            kernel, bias = (
                len(shapes) - 1 - shapes[::-1].index(shape) for shape in ((*ones, inputs, classes), (classes,))
            )
            return {f"{HEAD}kernel": kernel, f"{HEAD}bias": bias}
    return {}


def _by_name(architecture: Architecture, names: Sequence[str], shapes: Sequence[Shape]) -> dict[str, int] | None:
    """Array names are found at the end of variable names, the most specific first."""
    found: dict[str, int] = {}
    left = {index: "/" + re.sub(r"_\d+(?=/|$)", "", name.split(":")[0]) for index, name in enumerate(names)}
    for array, shape in sorted(architecture.array_shapes.items(), key=lambda item: -item[0].count("/")):
        ending = array.removeprefix("resnet")
        fitting = [index for index, name in left.items() if shapes[index] == shape and name.endswith(ending)]
        if len(fitting) != 1:
            return None
        found[array] = fitting[0]
        del left[fitting[0]]
    return found


def _by_order(architecture: Architecture, shapes: Sequence[Shape]) -> Iterator[dict[str, int]]:
    """Within a unit, only arrays of equal shape can be confused, so the n-th of a shape is the n-th of that
    shape: whatever the order of the rest, but for three questions that shapes do not answer."""
    by_shape = defaultdict(list)
    for index, shape in enumerate(shapes):
        by_shape[shape].append(index)
    for beta_first, projection_first, last_norm_first in product((False, True), repeat=3):
        arrays = list(architecture.array_shapes)
        if projection_first:
            arrays.sort(key=lambda name: (_unit(name), "/proj/" not in name))
        if last_norm_first:
            arrays.sort(key=lambda name: not name.startswith("resnet/group_norm"))
        if beta_first:
            arrays = [re.sub("gamma$|beta$", lambda word: BETA_OF[word[0]], name) for name in arrays]
        order = {shape: iter(indices) for shape, indices in by_shape.items()}
        yield {name: next(order[architecture.array_shapes[name]]) for name in arrays}


def _unit(name: str) -> str:
    """Sorts arrays by block and unit, the root before and the last normalisation after them."""
    match = re.match(r"resnet/(block\d/unit\d+)", name)
    return match[1] if match else ("" if "root" in name else "~")
