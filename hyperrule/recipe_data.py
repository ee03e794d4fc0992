"""What a recipe asks for, opened: its data set, its pool; and the images that a finished run had."""

import os
from pathlib import Path
from typing import cast, get_args

from hyperrule.data import Examples, Source, Split, open_source
from hyperrule.data.pool import Pool, open_pool
from hyperrule.errors import DataError
from hyperrule.planning.finetune import Plan
from hyperrule.recipe import DistillRecipe, Recipe, make_recipe
from hyperrule.run_folder import RunFolder
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


def images_of(
    run: RunFolder, dataset: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None, reporter: Reporter
) -> tuple[Examples, Examples]:
    """What a run was trained on, and what it was evaluated on; `dataset` and `data_dir` say where that is now.

    Raises DataError if it is not there, or not as it was.
    """
    plan = run.read_plan()
    moved: dict[str, object] = {} if data_dir is None else {"data_dir": os.fspath(data_dir)}
    if dataset is not None:
        moved["dataset"] = os.fspath(dataset) if isinstance(plan, Plan) else [os.fspath(dataset)]
    recipe = make_recipe({**plan.recipe.model_dump(), **moved}, type(plan.recipe))
    try:
        if isinstance(plan, Plan):
            source = source_of(cast("Recipe", recipe), reporter)
            sha256, known = source.info.sha256, plan.dataset.sha256
            images = source.examples("train"), source.examples(plan.test_split.value)
        else:
            pool = pool_of(cast("DistillRecipe", recipe), reporter)
            sha256, known = pool.info.sha256, plan.pool.sha256
            images = pool.training, pool.held_out
    except DataError as error:
        raise DataError(
            f"the images that {run.path} was evaluated on: {error} If they moved: --dataset FOLDER"
        ) from None
    if sha256 != known:
        raise DataError(
            f"{recipe.dataset} holds other images than {run.path} was trained and evaluated on. Say where those are: "
            "--dataset FOLDER"
        )
    return images


def _folder(path: str | None) -> Path | None:
    return None if path is None else Path(os.path.expanduser(path))
