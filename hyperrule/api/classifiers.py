"""What is done with what was trained: classes of images, exact figures, exports, ports and reports."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperrule.backbones.info import InputRange
from hyperrule.data.listing import Split
from hyperrule.data.open import make_data_recipe, source_of
from hyperrule.errors import RecipeError, UserError
from hyperrule.evaluation.label_matching import match_folders
from hyperrule.exporting.parity import Parity, add_parity
from hyperrule.exporting.port import PortedBackbone, port_backbone
from hyperrule.prediction.exported import Model, describe_model
from hyperrule.prediction.formats import FormatName, checked_format, place
from hyperrule.prediction.images import find_images, labelled_images
from hyperrule.prediction.released import ClassifierOptions, describe_classifier, make_classifier_options
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import os_errors_as, parent_made, staged_output
from hyperrule.support.progress import Reporter, silent_native_stderr

if TYPE_CHECKING:
    from hyperrule.prediction.accuracy import Accuracy
    from hyperrule.prediction.predictions import Prediction, Predictions
    from hyperrule.reporting.make import ReportFiles

DEFAULT_TOP = 5  # classes shown for an image


def predict(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    top: int | None = None,
    threshold: float = 0.0,
    size: int | None = None,
    activation: str | None = None,
    class_names: str | Path | None = None,
    input_range: tuple[float, float] | str | None = None,
    quiet: bool = False,
) -> list[Prediction]:
    """The `top` likeliest classes (by default 5, or all where there are fewer) of every image, without training.

    `model` is a run folder, an export of one, a name of the zoo that has a head, or a hub handle, SavedModel folder or
    BiT .npz of a classifier. `images` are files, folders, which are searched, globs, or "-" for a list on stdin. Where
    the best score is below `threshold` (0 to 1), the prediction has `abstained`. `size` is the side in pixels to which
    images are resized, by default what the classifier was released for. `activation`, `class_names` (a file with a name
    a line, or "imagenet-1k" or "imagenet-21k") and `input_range` are for files of unknown origin.

    An image that cannot be decoded has an `error`. Raises UserError if the request cannot be met, RunError if the
    work cannot be finished.
    """
    return list(
        predict_each(
            model,
            images,
            top=top,
            threshold=threshold,
            size=size,
            activation=activation,
            class_names=class_names,
            input_range=input_range,
            quiet=quiet,
        )
    )


def predict_each(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    top: int | None = None,
    threshold: float = 0.0,
    size: int | None = None,
    activation: str | None = None,
    class_names: str | Path | None = None,
    input_range: tuple[float, float] | str | None = None,
    quiet: bool = False,
) -> Predictions:
    """What `predict` returns, as an iterator that predicts as it is asked: of a million images, in memory are their
    paths and a few batches.

    The request is checked, and the classifier loaded, before this returns: UserError is raised here. While it is
    iterated it raises RunError, if the work cannot be finished.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        asked = make_classifier_options(size, activation, class_names, input_range)
        least = _checked_threshold(threshold)
        files = find_images([images] if isinstance(images, str | Path) else images)
        classifier = describe_model(os.fspath(model), asked, reporter)
        shown = _shown_classes(top, classifier)
    if classifier.note is not None:
        reporter.say(classifier.note)
    with silent_native_stderr():
        from hyperrule.prediction.predictions import predict_images
    return predict_images(classifier, files, shown, least, reporter)


def evaluate(
    model: str | Path,
    dataset: str | Path,
    *,
    split: Split | None = None,
    size: int | None = None,
    activation: str | None = None,
    class_names: str | Path | None = None,
    input_range: tuple[float, float] | str | None = None,
    quiet: bool = False,
    **data: Any,
) -> Accuracy:
    """Exact figures of a classifier on labelled images, over all of its classes, without training: accuracy (top-1,
    balanced, top-5), loss, calibration error, precision, recall and F1 by class, confusion matrix.

    `dataset` is what it is for `finetune`, its classes called by WordNet id, name or index; all images count, but
    where they are split those of `split`, by default of the first of test, validation and train that there is.
    `data` are the options of a recipe that say which images: `train_split`, `validation_split`, `test_split`,
    `data_dir`, `image_key`, `label_key` and `exclude` (a file of images that do not count). All others are those of
    `predict`. Raises UserError if the request cannot be met, RunError if the work cannot be finished.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        asked = make_classifier_options(size, activation, class_names, input_range)
        source = source_of(make_data_recipe("evaluate", dataset, data), reporter)
        images = labelled_images(os.fspath(dataset), source.listing, split, source.exclusions)
        classifier = describe_model(os.fspath(model), asked, reporter)
        labels = match_folders(images.class_names, classifier.class_names, classifier.name)
    if classifier.note is not None:
        reporter.say(classifier.note)
    if classifier.has_seen(os.fspath(dataset), images.split):
        reporter.say(f"{classifier.name} was trained on images of {dataset}: these figures do not tell of new ones.")
    with silent_native_stderr():
        from hyperrule.prediction.accuracy import evaluate_images
    return evaluate_images(classifier, images, labels, reporter)


def export(
    run: str | Path,
    format: str,  # noqa: A002
    *,
    quantize: str = "none",
    out: str | Path | None = None,
    dataset: str | Path | None = None,
    data_dir: str | Path | None = None,
    min_agreement: float | None = None,
    quiet: bool = False,
) -> Parity:
    """The classifier of a finished run as "saved_model", "module" (TF2 Hub), "litert", "onnx" or "keras".

    It lies in the run's export/, and its report tells of it, unless `out` is given: a new file or folder, for a
    saved_model one that holds versions, of which this is the first. Up to 256 images of the run's test go through it in
    a fresh process, and what comes out is compared with the evaluation; so the data set has to be there still, or its
    place told by `dataset` and `data_dir`. `quantize` (litert): "float16", "dynamic" or "int8", of which at least 98,
    95 and 90 % of the images must keep their label, or `min_agreement` from 0 to 1. Raises UserError if the request
    cannot be met, RunError if the export disagrees, and then leaves nothing behind.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        name, quantization = checked_format(format, quantize)
        if min_agreement is not None and not 0 <= min_agreement <= 1:
            raise RecipeError(f"--min-agreement must be from 0 to 1. Received: {min_agreement!r}")
        folder = RunFolder(Path(os.path.expanduser(run)))
        folder.read_plan()  # says what is wrong with what is no run at all
        classifier = describe_classifier(os.fspath(folder.path), ClassifierOptions(), reporter)
        if out is None:
            from hyperrule.reporting.make import read_run

            read_run(folder)  # or its report would fail, after all the work
        target = folder.export / place(name, quantization) if out is None else _export_to(out, name)
        with folder.locked() if out is None else nullcontext(), parent_made(folder.parity_file), parent_made(target):
            with staged_output(target) as staging:
                from hyperrule.exporting.evaluated import images_of

                training, testing = images_of(folder, dataset, data_dir, reporter)
                with silent_native_stderr():
                    from hyperrule.exporting.export_run import export_run
                parity = export_run(
                    folder, classifier, training, testing, name, quantization, min_agreement, staging, reporter
                )
            parity = parity.model_copy(update={"path": str(target)})
            if out is None:
                add_parity(folder.parity_file, parity)
        if out is None:
            report(folder.path)
    return parity


def port(
    source: str | Path,
    target: str | Path,
    *,
    input_range: InputRange | str | None = None,
    classifier: bool = False,
    quiet: bool = False,
) -> PortedBackbone:
    """Write a BiT to a new `target`: BiT's public format if it ends in .npz, else a folder with a TF2 Hub SavedModel.

    `source` is whatever `backbone` of the other functions may be, if it is a BiT. The SavedModel takes
    images with pixels in `input_range`, (0, 1) by default or (-1, 1), and returns features, or with
    `classifier` the logits of the source's head. It is loaded again and compared with the native network. Random
    weights set Keras' global seed. Raises UserError, or RunError if the work cannot be finished, and then
    leaves nothing behind.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        path = Path(os.path.expanduser(target))
        return port_backbone(os.fspath(source), path, input_range, classifier, Reporter(quiet))


def report(runs: str | Path | Iterable[str | Path], *, out: str | Path | None = None) -> ReportFiles:
    """Make the web page of a finished run anew, report.html in its folder, and its model card.

    Of several runs, one page puts them side by side: `out`, by default report.html in the current folder. `out` of a
    single run is where its page goes instead, and its folder stays as it is. Nothing but the run folders is read.
    Raises UserError, with nothing written, if a run is not finished or damaged, or if `out` is a file that is no such
    page; RunError if a page cannot be written.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.reporting.make import make_report

        folders = [RunFolder(Path(os.path.expanduser(run))) for run in given]
        return make_report(folders, None if out is None else Path(os.path.expanduser(out)))


def _shown_classes(top: int | None, classifier: Model) -> int:
    if top is None:
        return min(DEFAULT_TOP, classifier.classes)
    if isinstance(top, bool) or not 1 <= top <= classifier.classes:
        raise RecipeError(
            f"top must be from 1 to {classifier.classes}, the classes of {classifier.name}. Received: {top!r}"
        )
    return top


def _checked_threshold(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise RecipeError(f"threshold must be a probability, from 0 to 1. Received: {threshold!r}")
    return threshold


def _export_to(out: str | Path, name: FormatName) -> Path:
    return Path(os.path.expanduser(out), *(["1"] if name == "saved_model" else []))
