"""A data set as a backbone sees it that is not trained."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.open import source_of
from hyperrule.data.source import Source
from hyperrule.errors import BackboneError, RecipeError
from hyperrule.evaluation.features import features_of
from hyperrule.recipe import Recipe
from hyperrule.support.progress import Reporter

SIDE = 128  # pixels, where nothing else is asked for: a second for some hundred images
SMALLEST, LARGEST = 32, 4096  # pixels, as of --crop


@dataclass(frozen=True)
class Frozen:
    """Images resized to `size` x `size` pixels."""

    source: Source
    backbone: BackboneInfo
    size: int
    reporter: Reporter

    def features(self, examples: Examples) -> npt.NDArray[np.float32]:
        """[N, D], from the cache or for it; raises what `features_of` does."""
        return features_of(self.backbone, examples, self.size, self.reporter)


def freeze(recipe: Recipe, size: int | None, reporter: Reporter) -> Frozen:
    """The data set and the backbone of a recipe. Raises UserError, mistakes about the data before a long download."""
    if size is not None and (isinstance(size, bool) or not SMALLEST <= size <= LARGEST):
        raise RecipeError(f"size must be from {SMALLEST} to {LARGEST} pixels. Received: {size!r}")
    source = source_of(recipe, reporter)
    for warning in source.info.warnings:
        reporter.say(f"Warning: {warning}.")
    backbone = describe_backbone(recipe.backbone, reporter, input_range=recipe.input_range)
    only = None if backbone.as_it_is is None else backbone.as_it_is.side
    if only is not None and size not in (None, only):
        raise BackboneError(f"{backbone.name} takes images of {only} x {only} pixels only. Received: {size}.")
    return Frozen(source, backbone, size or only or SIDE, reporter)
