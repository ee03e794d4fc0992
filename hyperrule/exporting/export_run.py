"""A finished run's classifier in another form: written, run in a fresh process, compared."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hyperrule.data.images import Examples
from hyperrule.data.open import pool_of, source_of
from hyperrule.errors import DataError, RunError, RunFolderError
from hyperrule.exporting.formats import AFTER_GPU, FLOAT32, TOLERANCES, FormatName, Quantize, Tolerance, export_name
from hyperrule.exporting.parity import Parity
from hyperrule.exporting.replay import check_parity
from hyperrule.exporting.saved_model import export_module, export_saved_model
from hyperrule.planning.finetune import Plan
from hyperrule.prediction.card import Card
from hyperrule.prediction.logits import load_classifier
from hyperrule.prediction.released import ReleasedClassifier
from hyperrule.recipe import DistillRecipe, Recipe, make_recipe
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter


def export_run(
    run: RunFolder,
    classifier: ReleasedClassifier,
    training: Examples,
    testing: Examples,
    name: FormatName,
    quantize: Quantize,
    min_agreement: float | None,
    target: Path,
    reporter: Reporter,
) -> Parity:
    """Write the run's classifier to `target`, which does not exist, and run it.

    `testing` are the images of the run's evaluation, `training` those that 8-bit ranges are measured on. Raises
    RunFolderError if the evaluation was of other images, UserError if the network does not allow the format, RunError
    if it cannot be converted, or disagrees with the evaluation.
    """
    card = Card(
        name=run.path.resolve().name,
        class_names=tuple(known.name for known in classifier.class_names),
        size=classifier.size,
        temperature=classifier.temperature,
    )
    evaluated, probabilities = _evaluated(run, testing, card.class_names)
    tolerance = TOLERANCES[quantize]
    if run.read_plan().machine.gpus and tolerance == FLOAT32:
        tolerance = AFTER_GPU
    if min_agreement is not None:
        most = tolerance.difference if quantize == "none" else 1.0
        tolerance = Tolerance(difference=most, agreement=min_agreement)
    reporter.say(f"Exporting {card.name} as {export_name(name, quantize)} ...")
    with os_errors_as(RunError, "the export cannot be written"):
        _write(classifier, card, name, quantize, training, target)
    reporter.say("Comparing it with the evaluation, in a fresh process ...")
    return check_parity(target, name, quantize, card, evaluated, probabilities, tolerance)


def _evaluated(
    run: RunFolder, testing: Examples, class_names: tuple[str, ...]
) -> tuple[Examples, npt.NDArray[np.float32]]:
    """The test images as the run evaluated them: their labels, which for a distillation the teacher gave, and their
    probabilities [N, classes]."""
    numbers = {name: number for number, name in enumerate(class_names)}
    try:
        with os_errors_as(RunFolderError, f"cannot read {run.predictions_file}"):
            table = pq.read_table(run.predictions_file, columns=["id", "label", "probabilities"])
        if table["id"].to_pylist() != list(testing.ids):
            raise RunFolderError(f"{run.predictions_file} is of other test images than the data set has now.")
        labels = np.array([numbers[name] for name in table["label"].to_pylist()], np.int32)
        probabilities = np.asarray(table["probabilities"].combine_chunks().flatten(), np.float32)
        return Examples(testing.ids, labels, testing.contents), probabilities.reshape(-1, len(class_names))
    except (ValueError, KeyError) as error:
        raise RunFolderError(f"{run.predictions_file} is damaged: {' '.join(str(error).split())[:200]}") from None


def _write(
    classifier: ReleasedClassifier, card: Card, name: FormatName, quantize: Quantize, training: Examples, target: Path
) -> None:
    network = load_classifier(classifier, folded=name != "module")
    match name:
        case "saved_model":
            export_saved_model(network, card, target)
        case "module":
            export_module(network, card, target)
        case "litert":
            from hyperrule.exporting.converted import export_litert

            with _converting("LiteRT"):
                export_litert(network, card, quantize, training, target)
        case "onnx":
            from hyperrule.exporting.converted import export_onnx

            with _converting("ONNX"):
                export_onnx(network, card, target)
        case "keras":
            from hyperrule.exporting.keras_model import export_keras

            export_keras(network, card, target)


@contextmanager
def _converting(what: str) -> Iterator[None]:
    """Within the block a converter's failure, of whatever kind, becomes a RunError with its first line."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"this network cannot be converted to {what}: {reason[:300]}") from error


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
