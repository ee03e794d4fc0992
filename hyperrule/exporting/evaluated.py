"""The images that a finished run was trained and evaluated on, their labels and probabilities; no TensorFlow."""

import os

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hyperrule.data.images import Examples
from hyperrule.errors import DataError, RunFolderError
from hyperrule.recipe import make_recipe
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter


def images_of(
    run: RunFolder, dataset: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None, reporter: Reporter
) -> tuple[Examples, Examples]:
    """Return the images that a run was trained on, and those that it was evaluated on.

    `dataset` and `data_dir` are their present location, None if they have not moved. Raises DataError if the images
    are missing or have changed.
    """
    plan = run.read_plan()
    moved: dict[str, object] = {} if data_dir is None else {"data_dir": os.fspath(data_dir)}
    if dataset is not None:
        moved["dataset"] = os.fspath(dataset)
    recipe = make_recipe({**plan.recipe.model_dump(), **moved}, type(plan.recipe))
    try:
        sha256, training, testing = plan.images(recipe, reporter)
    except DataError as error:
        raise DataError(
            f"the images that {run.path} was evaluated on: {error} If they have moved, add --dataset FOLDER"
        ) from None
    if sha256 != plan.data_sha256:
        raise DataError(
            f"{dataset or plan.data_name} holds other images than {run.path} was trained and evaluated on. "
            "Give their folder with --dataset FOLDER"
        )
    return training, testing


def evaluated_examples(
    run: RunFolder, testing: Examples, class_names: tuple[str, ...]
) -> tuple[Examples, npt.NDArray[np.float32]]:
    """Return the test images with the labels of the run's evaluation, and its probabilities float32 [N, classes].

    A distillation's labels are its teacher's. Raises RunFolderError if the predictions are of other images, or damaged.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    try:
        with os_errors_as(RunFolderError, f"cannot read {run.predictions_file}"):
            table = pq.read_table(run.predictions_file, columns=["id", "label", "probabilities"])
        if table["id"].to_pylist() != list(testing.ids):
            raise RunFolderError(f"{run.predictions_file} lists other test images than the data set has now.")
        labels = np.array([numbers[name] for name in table["label"].to_pylist()], np.int32)
        probabilities = np.asarray(table["probabilities"].combine_chunks().flatten(), np.float32)
        return Examples(testing.ids, labels, testing.contents), probabilities.reshape(-1, len(class_names))
    except (ValueError, KeyError) as error:
        raise RunFolderError(f"{run.predictions_file} is damaged: {' '.join(str(error).split())[:200]}") from None
