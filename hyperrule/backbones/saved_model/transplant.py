"""Recognises a BiT in a SavedModel: matches its variables to BiT's arrays, by name or by shape and order alone.

Every match is a guess until `inspection` has compared outputs. No TensorFlow.
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
    """A SavedModel's variables matched to a BiT's arrays.

    `how` is "names" or "order". `variables` maps array names to indices of variables; it includes the head, if the
    SavedModel has one.
    """

    architecture: Architecture
    how: str
    variables: Mapping[str, int]


def matches(names: Sequence[str], shapes: Sequence[Shape]) -> Iterator[Match]:
    """Yield every possible match of the variables to a BiT, the likeliest first; nothing if there is none.

    Names may have prefixes, ":0" and numbered suffixes. If names do not match, variables of equal shape are matched by
    their order, for each of the orders in which BiT networks are known to be built.
    """
    for architecture in _architectures(shapes):
        head = _head(architecture, shapes)
        if (named := _by_name(architecture, names, shapes)) is not None:
            yield Match(architecture, "names", named | head)
            continue
        for ordered in _by_order(architecture, shapes):
            yield Match(architecture, "order", ordered | head)


def _architectures(shapes: Sequence[Shape]) -> Iterator[Architecture]:
    """Yield the architectures whose arrays all have a variable of their shape.

    The remaining variables may be a head, but not a kernel larger than 1 x 1.
    """
    present = Counter(shapes)
    widths = {shape[3] / 64 for shape in shapes if len(shape) == 4 and shape[:3] == (7, 7, 3) and shape[3] % 32 == 0}
    for depth, width in product(UNITS_PER_BLOCK, sorted(widths)):
        architecture = Architecture(depth, width)
        wanted = Counter(architecture.array_shapes.values())
        if wanted <= present and not any(len(shape) == 4 and shape[0] > 1 for shape in present - wanted):
            yield architecture


def _head(architecture: Architecture, shapes: Sequence[Shape]) -> dict[str, int]:
    """Match the last kernel from features to classes, and its bias; empty if there is no head."""
    left = Counter(shapes) - Counter(architecture.array_shapes.values())
    for *ones, inputs, classes in (shape for shape in left if len(shape) in (2, 4)):
        if inputs == architecture.features and set(ones) <= {1} and (classes,) in left:
            kernel, bias = (
                len(shapes) - 1 - shapes[::-1].index(shape) for shape in ((*ones, inputs, classes), (classes,))
            )
            return {f"{HEAD}kernel": kernel, f"{HEAD}bias": bias}
    return {}


def _by_name(architecture: Architecture, names: Sequence[str], shapes: Sequence[Shape]) -> dict[str, int] | None:
    """Match array names to the ends of variable names, longest first; None if any has not exactly one match."""
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
    """Yield matches of the n-th variable of each shape to the n-th array of that shape.

    Three details of the order cannot be seen from shapes, so all their combinations are tried: whether beta precedes
    gamma, whether a unit's projection is its first kernel, and whether the last normalisation comes first.
    """
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
    """Return a key that sorts arrays by block and unit, after the root and before the last normalisation."""
    match = re.match(r"resnet/(block\d/unit\d+)", name)
    return match[1] if match else ("" if "root" in name else "~")
