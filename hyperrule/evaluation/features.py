"""Features of images by a frozen backbone, extracted once and kept in the cache folder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.open import source_of
from hyperrule.data.source import Source
from hyperrule.errors import BackboneError, RecipeError
from hyperrule.planning.machine.speed import software
from hyperrule.recipe import Recipe
from hyperrule.support.files import atomic_write, cache_folder, file_lock
from hyperrule.support.progress import Reporter, silent_native_stderr

PREPROCESSING = 1  # increase it when pixels or the folded network change, so that cached features are not reused
SIDE = 128  # pixels, unless a size is given; some hundred images a second
SMALLEST, LARGEST = 32, 4096  # pixels, as for --crop


def features_of(
    info: BackboneInfo, examples: Examples, size: int, reporter: Reporter | None = None
) -> npt.NDArray[np.float32]:
    """Return pooled features float32 [N, D] of images resized to `size` x `size` pixels, in the order of `examples`.

    The array is memory-mapped, read-only. Features are computed by the float32 network with folded kernels, as in
    evaluations; random weights are drawn with seed 0. TensorFlow is imported only if the cache does not have them.
    Raises DataError if an image cannot be decoded, RunError if TensorFlow fails or the file cannot be written.
    """
    reporter = reporter or Reporter(quiet=True)
    file = features_file(info, examples, size)
    if not file.exists():
        with file_lock(file.with_suffix(".lock"), reporter):
            if not file.exists():  # another process may have been first
                with silent_native_stderr():
                    from hyperrule.evaluation.inference import extract
                features = extract(info, examples, size, reporter)
                with atomic_write(file) as partial, partial.open("wb") as stream:
                    np.save(stream, features)
    mapped: npt.NDArray[np.float32] = np.load(file, mmap_mode="r")
    return mapped


def features_file(info: BackboneInfo, examples: Examples, size: int) -> Path:
    """Return the path of cached features. Its name is a hash of everything that can change them."""
    return cache_folder() / "features" / f"{_key(info, examples, size)}.npy"


def _key(info: BackboneInfo, examples: Examples, size: int) -> str:
    identity = {
        "weights": info.sha256 or info.name,
        "architecture": info.architecture,
        "input range": info.input_range,
        "images": _fingerprint(examples),
        "size": size,
        "preprocessing": PREPROCESSING,
        "versions": software(),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _fingerprint(examples: Examples) -> str:
    """Return a hash of the images' hashes, in order. If these are not known, read every image."""
    if examples.sha256 is not None:
        return hashlib.sha256(np.ascontiguousarray(examples.sha256).tobytes()).hexdigest()
    digest = hashlib.sha256()
    for encoded in examples.encoded():
        digest.update(hashlib.sha256(encoded).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class FrozenFeatures:
    """A data set seen through a frozen backbone, with images resized to `size` x `size` pixels."""

    source: Source
    backbone: BackboneInfo
    size: int
    reporter: Reporter

    def features(self, examples: Examples) -> npt.NDArray[np.float32]:
        """Return features float32 [N, D]; see `features_of`, also for errors."""
        return features_of(self.backbone, examples, self.size, self.reporter)


def frozen_features(recipe: Recipe, size: int | None, reporter: Reporter) -> FrozenFeatures:
    """Open the data set and the backbone of a recipe; `size` is in pixels.

    Raises UserError. The data set is opened first, so that its errors come before a long download of weights.
    """
    if size is not None and (isinstance(size, bool) or not SMALLEST <= size <= LARGEST):
        raise RecipeError(f"size must be from {SMALLEST} to {LARGEST} pixels. Received: {size!r}")
    source = source_of(recipe, reporter)
    for warning in source.info.warnings:
        reporter.say(f"Warning: {warning}.")
    backbone = describe_backbone(recipe.backbone, reporter, input_range=recipe.input_range)
    only = None if backbone.opaque is None else backbone.opaque.side
    if only is not None and size not in (None, only):
        raise BackboneError(f"{backbone.name} takes images of {only} x {only} pixels only. Received: {size}.")
    return FrozenFeatures(source, backbone, size or only or SIDE, reporter)
