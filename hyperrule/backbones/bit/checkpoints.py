"""BiT checkpoints: the public `.npz` format, read and written without TensorFlow or pickle."""

import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hyperrule.backbones.bit.architecture import UNITS_PER_BLOCK, Architecture
from hyperrule.errors import BackboneError
from hyperrule.support.files import NpyHeader, PickledObjects
from hyperrule.support.wording import listed

Arrays = dict[str, npt.NDArray[np.float32]]
State = dict[str, npt.NDArray[Any]]  # arrays, and counters as integers: float32 skips whole numbers above 2^24
HEAD = "resnet/head/conv2d/"  # its kernel is 1 x 1 x features x classes, its bias [classes]
# What numpy and zipfile raise on files that are cut short, overwritten, or no archives at all.
DAMAGE = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)


def read_architecture(path: Path) -> Architecture:
    """The BiT architecture whose arrays the file holds, found from names and shapes alone.

    Raises BackboneError if the file is no readable .npz, holds Python objects, or does not fit any
    BiT network; the message lists missing, unexpected and misshaped arrays.
    """
    shapes = _array_shapes(path)
    architecture = _closest_architecture(path, shapes)
    expected = architecture.array_shapes
    found = {name: shape for name, shape in shapes.items() if not name.startswith(HEAD)}
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "misshaped": [
            f"{name} (expected {expected[name]}, received {found[name]})"
            for name in expected
            if name in found and found[name] != expected[name]
        ],
    }
    if any(problems.values()):
        details = "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names)
        raise BackboneError(f"{path} is not a BiT checkpoint; closest is {architecture}, with arrays {details}.")
    return architecture


def head_classes(path: Path, features: int) -> int | None:
    """Number of classes of the head in the file, on so many features; None if there is no head.

    Raises BackboneError if the file is no readable .npz, or its head is not whole or does not fit.
    """
    shapes = _array_shapes(path)
    kernel, bias = shapes.get(f"{HEAD}kernel"), shapes.get(f"{HEAD}bias")
    if kernel is None and bias is None:
        return None
    if kernel is None or bias is None or kernel != (1, 1, features, *bias) or len(bias) != 1 or bias == (0,):
        raise BackboneError(
            f"{path} has a head that does not fit: {HEAD}kernel must have shape (1, 1, {features}, classes) and "
            f"{HEAD}bias (classes,). Received: {kernel or 'no kernel'} and {bias or 'no bias'}."
        )
    return bias[0]


def read_arrays(path: Path) -> State:
    """All arrays of the file by canonical name, of the type that they have there.

    Raises BackboneError if the file is no readable .npz or an array is damaged or a Python object.
    """
    with _damage_told(path), np.load(path, allow_pickle=False) as archive:
        return {canonical_name(member): archive[member] for member in archive.files}


class StoredArrays(Mapping[str, npt.NDArray[np.float32]]):
    """All arrays of the file by canonical name, each read, as float32, when it is asked for, and not kept.

    To be used in a `with` statement. Raises BackboneError as `read_arrays` does, and for what is not numeric.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _damage_told(path):
            self._archive = np.load(path, allow_pickle=False)
        self._members = {canonical_name(member): member for member in self._archive.files}

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        member = self._members[name]
        with _damage_told(self._path):
            return np.asarray(self._archive[member], np.float32)

    def __contains__(self, name: object) -> bool:
        return name in self._members  # what Mapping inherits would read the array

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays under their names, uncompressed, one after the other."""
    with zipfile.ZipFile(path, "w") as archive:  # numpy.savez would first have all of them in memory
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def canonical_name(name: str) -> str:
    """Some public files number their convolutions: standardized_conv2d_17 -> standardized_conv2d."""
    return re.sub(r"standardized_conv2d_\d+", "standardized_conv2d", name)


def _array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the array headers, without reading the arrays."""
    shapes = {}
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                try:
                    header = NpyHeader.read(stream)
                except PickledObjects:
                    raise BackboneError(
                        f"{path} holds pickled Python objects ({member}), which can run code when they are read; "
                        "only numeric arrays are allowed. Save it again from its source with numpy.savez."
                    ) from None
            if header.dtype.kind not in "fiub":
                raise BackboneError(
                    f"{path} is not a BiT checkpoint: array {member} has type {header.dtype}, not numbers."
                )
            shapes[canonical_name(member.removesuffix(".npy"))] = header.shape
    return shapes


def _closest_architecture(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The architecture with the file's root width that shares most array names with it."""
    root = shapes.get("resnet/root_block/standardized_conv2d/kernel")
    if root is None or len(root) != 4 or prod(root) == 0 or root[3] % 32:
        raise BackboneError(
            f"{path} is not a BiT checkpoint: it has {len(shapes)} arrays but no "
            "resnet/root_block/standardized_conv2d/kernel of shape (7, 7, 3, 64 x width). "
            f"Received: {listed(list(shapes))}."
        )
    candidates = [Architecture(depth, root[3] / 64) for depth in UNITS_PER_BLOCK]
    return max(candidates, key=lambda candidate: -len(candidate.array_shapes.keys() ^ shapes.keys()))


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise BackboneError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"backbone file {path} does not exist."
    return f"{path} cannot be read as .npz (truncated or not an .npz file): {error}. Fetch or copy the file again."
