"""Opening a data set: from what the user typed to facts and examples."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from hyperrule.data.listing import DataRequest, Split
from hyperrule.data.pool import Pool, open_pool
from hyperrule.data.selection import Exclusions, read_exclusions
from hyperrule.data.source import Source
from hyperrule.data.sources.kinds import list_images
from hyperrule.errors import RecipeError
from hyperrule.recipe import LISTED, DistillRecipe, Recipe, make_recipe
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import did_you_mean

PROBED = ("backbone", "input_range", "split_seed", "exclude", "skip_corrupt", "strict_data")


DATA_OPTIONS = {  # options that have an effect on commands that do not train
    "check": (*LISTED[1:], "split_seed", "exclude"),
    "evaluate": (*LISTED[1:], "exclude"),
    "label-errors": (*LISTED[1:], *PROBED),
    "learning-curve": (*LISTED[1:], *PROBED),
}


def open_source(
    dataset: str,
    *,
    splits: Mapping[Split, str] | None = None,
    data_dir: Path | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    split_seed: int = 0,
    skip_corrupt: bool = False,
    strict: bool = False,
    exclude: Path | None = None,
    reporter: Reporter | None = None,
    fetch: bool = True,
) -> Source:
    """The data set that `dataset` is, in whatever it is stored ('hyperrule datasets' lists the kinds).

    Other arguments are those of `DataRequest` and `Source`; `exclude` is a file that `hyperrule check` wrote. With
    `fetch`, what is missing may be downloaded. Raises DataError, here or when facts or examples are asked for, if
    the data cannot be used.
    """
    reporter = reporter or Reporter()
    request = DataRequest(dataset, splits or {}, data_dir, image_key, label_key)
    return Source(
        name=dataset,
        listing=list_images(request, reporter, fetch),
        split_seed=split_seed,
        skip_corrupt=skip_corrupt,
        strict=strict,
        exclusions=Exclusions() if exclude is None else read_exclusions(exclude),
        reporter=reporter,
    )


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


def make_data_recipe(command: str, dataset: str | os.PathLike[str], options: Mapping[str, Any]) -> Recipe:
    """A checked recipe of DATA_OPTIONS. Raises RecipeError as `make_recipe` does, and for other options."""
    taken = DATA_OPTIONS[command]
    if unknown := [name for name in options if name not in taken]:
        raise RecipeError(
            f"{command} does not take {', '.join(map(repr, unknown))}.{did_you_mean(unknown[0], taken)} "
            f"Of the options of a recipe it takes {', '.join(taken)}."
        )
    return make_recipe({"dataset": dataset, **options}, Recipe)
