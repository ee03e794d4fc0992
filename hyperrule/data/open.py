"""TODO."""

import os
from pathlib import Path
from typing import get_args

from hyperrule.data import Source, Split, open_source
from hyperrule.data.pool import Pool, open_pool
from hyperrule.recipe import DistillRecipe, Recipe
from hyperrule.support.progress import Reporter


def source_of(recipe: Recipe, reporter: Reporter, fetch: bool = True) -> Source:
    return open_source(
        recipe.dataset,
        splits={split: name for split in get_args(Split) if (name := getattr(recipe, f"{split}_split")) is not None},
        data_dir=_folder(recipe.data_dir),
        image_key=recipe.image_key,
        label_key=recipe.label_key,
        split_seed=recipe.split_seed,
        skip_corrupt=recipe.skip_corrupt,
        strict=recipe.strict_data,
        exclude=_folder(recipe.exclude),
        reporter=reporter,
        fetch=fetch,
    )


def pool_of(recipe: DistillRecipe, reporter: Reporter, fetch: bool = True) -> Pool:
    data_dir = _folder(recipe.data_dir)
    return open_pool(recipe.dataset, data_dir, recipe.split_seed, recipe.skip_corrupt, reporter, fetch)


def _folder(path: str | None) -> Path | None:
    return None if path is None else Path(os.path.expanduser(path))
