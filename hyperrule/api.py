"""The Python API: check, label_errors and learning_curve; plan, finetune, distill and resume; predict and evaluate;
export and port; report; bench."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hyperrule.backbones.describe import describe_backbone
from hyperrule.data import Source, Split
from hyperrule.data.pool import Pool
from hyperrule.distill_recipe import DistillRecipe
from hyperrule.distillation.describe import describe_student, describe_teacher
from hyperrule.errors import RecipeError, RunFolderError, UserError
from hyperrule.exporting.formats import FormatName, checked_format, place
from hyperrule.exporting.parity import Parity, add_parity
from hyperrule.exporting.port import Ported, port_backbone
from hyperrule.files import os_errors_as, parent_made, taking_its_place
from hyperrule.input_range import InputRange
from hyperrule.planning.cluster import this_cluster
from hyperrule.planning.distill_plan import DistillPlan
from hyperrule.planning.distill_planner import make_distill_plan
from hyperrule.planning.machine import Machine, this_machine
from hyperrule.planning.memory import tensor_bytes
from hyperrule.planning.plan import Plan
from hyperrule.planning.planner import make_plan, training_examples
from hyperrule.planning.training_plan import Calibration, TrainingPlan
from hyperrule.prediction.exported import Model, describe_model
from hyperrule.prediction.image_paths import find_images
from hyperrule.prediction.images import labelled_images
from hyperrule.prediction.labels import match_folders
from hyperrule.prediction.released import Asked, describe_classifier, make_asked
from hyperrule.progress import Reporter
from hyperrule.recipe import Recipe, TrainingRecipe, make_recipe
from hyperrule.recipe_data import images_of, pool_of, source_of
from hyperrule.run_folder import RunFolder, check_free
from hyperrule.silence import silent_native_stderr

if TYPE_CHECKING:
    from hyperrule.benchmark.folder import BenchFolder
    from hyperrule.benchmark.grid import Grid
    from hyperrule.benchmark.outlook import Outlook, Status
    from hyperrule.benchmark.run_grid import Bench
    from hyperrule.distillation.distillation import Distilled
    from hyperrule.finetuning import Result
    from hyperrule.insight.label_errors import LabelErrors
    from hyperrule.insight.learning_curve import LearningCurve
    from hyperrule.prediction.accuracy import Accuracy
    from hyperrule.prediction.predictions import Prediction, Predictions
    from hyperrule.preflight.findings import Preflight
    from hyperrule.reporting.make import Reported

P = TypeVar("P", bound=TrainingPlan)
R = TypeVar("R", bound=TrainingRecipe)
PIECES = {"micro_batch", "remat", "xla", "memory_limit", "devices"}  # options that say how a batch is cut up
# Read when TensorFlow is imported: tensorflow/core/common_runtime/mkl_cpu_allocator.h
CPU_LIMIT = "TF_MKL_ALLOC_MAX_BYTES"
MOST_JOBS = 256
DEFAULT_TOP = 5  # classes shown for an image


def plan(**options: Any) -> Plan:
    """What `finetune(**options)` would do, each value with its reason; TensorFlow is not imported, but to look
    into a SavedModel for the first time.

    Options are those of `hyperrule.recipe.Recipe`; `dataset` is required. Weights that 'hyperrule backbones'
    lists are not downloaded. Raises UserError.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        return _plan(make_recipe(options, Recipe), Reporter(), fetch=False)[0]


def finetune(
    *, out: str | Path | None = None, restartable: bool = False, quiet: bool = False, **options: Any
) -> Result:
    """Fine-tune, evaluate, export; returns the finished run.

    `out` is the run folder, by default a new one under `runs/`. With `restartable`, a run that is there is gone on
    with, if it is of the same request, or its result returned. `quiet` shows no progress. On a CPU,
    TensorFlow is set to deterministic operations, and Keras' global seed is set. Other
    options are those of `hyperrule.recipe.Recipe`; `dataset` is required; `memory_limit` bounds a CPU only if
    TensorFlow has not been imported yet. Where TF_CONFIG or SLURM say that
    this process is one of several workers, all of them must call this; the first alone writes. Raises UserError, with
    nothing written, if the request cannot be met; RunError if the work cannot be finished.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        folder, begun = _run_folder(out, restartable)
        if folder is not None and begun:
            if folder.finished:
                with silent_native_stderr():
                    from hyperrule.finetuning import folder_result
                return folder_result(folder)
            return cast("Result", resume(folder.path, quiet=quiet, **options))
        reporter = Reporter(quiet or not this_cluster().chief)
        planned, source = _plan(make_recipe(options, Recipe), reporter)
    with _importing_tensorflow(planned):
        from hyperrule.finetuning import run_plan
    return run_plan(planned, source, folder, reporter)


def plan_distillation(**options: Any) -> DistillPlan:
    """What `distill(**options)` would do, each value with its reason. Raises UserError."""
    with os_errors_as(UserError, "a path cannot be used"):
        return _plan_distillation(make_recipe(options, DistillRecipe), Reporter(), fetch=False)[0]


def distill(
    *, out: str | Path | None = None, restartable: bool = False, quiet: bool = False, **options: Any
) -> Distilled:
    """Train a BiT to be like a teacher, by function matching on images without labels; returns the finished run.

    `options` are those of `hyperrule.distill_recipe.DistillRecipe`; `teacher` and `dataset` (one or several) are
    required. All else is as for `finetune`. The student is in the run's weights.npz, and the run folder is a `backbone`
    for `finetune`.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        folder, begun = _run_folder(out, restartable)
        if folder is not None and begun:
            if folder.finished:
                with silent_native_stderr():
                    from hyperrule.distillation.distillation import folder_distilled
                return folder_distilled(folder)
            return cast("Distilled", resume(folder.path, quiet=quiet, **options))
        reporter = Reporter(quiet or not this_cluster().chief)
        planned, pool = _plan_distillation(make_recipe(options, DistillRecipe), reporter)
    with _importing_tensorflow(planned):
        from hyperrule.distillation.distillation import run_distillation
    return run_distillation(planned, pool, folder, reporter)


def resume(run: str | Path, *, quiet: bool = False, **options: Any) -> Result | Distilled:
    """Go on with an unfinished run, of `finetune` or `distill`, under its own plan, on whatever devices there are now.

    Data and networks must be what they were, and `options`, if any, must not change the plan:
    raises RunFolderError with the differences otherwise, or if the run is finished.
    """
    folder = RunFolder(Path(run))
    reporter = Reporter(quiet or not this_cluster().chief)
    with os_errors_as(UserError, "a path cannot be used"):
        stored = folder.read_plan()
        if folder.finished:
            raise RunFolderError(f"{folder.path} is finished; its result is in {folder.report_file}.")
        recipe = make_recipe({**stored.recipe.model_dump(), **options}, type(stored.recipe))
        if isinstance(recipe, DistillRecipe):
            distilling, pool = _plan_distillation(_as_decided(recipe, stored), reporter, before=stored.machine)
            asked = _resumable(folder, stored, distilling, recipe, options)
            with _importing_tensorflow(asked):
                from hyperrule.distillation.distillation import resume_distillation
            return resume_distillation(asked, pool, folder, _measured(stored, recipe), reporter)
        assert isinstance(recipe, Recipe)
        finetuning, source = _plan(_as_decided(recipe, stored), reporter, before=stored.machine)
        planned = _resumable(folder, stored, finetuning, recipe, options)
    with _importing_tensorflow(planned):
        from hyperrule.finetuning import resume_run
    return resume_run(planned, source, folder, _measured(stored, recipe), reporter)


def port(
    source: str | Path,
    target: str | Path,
    *,
    input_range: InputRange | str | None = None,
    classifier: bool = False,
    quiet: bool = False,
) -> Ported:
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
        classifier = describe_classifier(os.fspath(folder.path), Asked(), reporter)
        if out is None:
            from hyperrule.reporting.read import read_run

            read_run(folder)  # or its report would fail, after all the work
        target = folder.export / place(name, quantization) if out is None else _export_to(out, name)
        with folder.locked() if out is None else nullcontext(), parent_made(folder.parity_file), parent_made(target):
            with taking_its_place(target) as staging:
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
        asked = make_asked(size, activation, class_names, input_range)
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
    `data` are the options of a recipe that say which images (`data_dir`, `image_key`, `test_split` ...), others those
    of `predict`. Raises UserError if the request cannot be met, RunError if the work cannot be finished.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        asked = make_asked(size, activation, class_names, input_range)
        source = source_of(make_recipe({"dataset": dataset, **data}, Recipe), reporter)
        images = labelled_images(os.fspath(dataset), source.listing, split)
        classifier = describe_model(os.fspath(model), asked, reporter)
        labels = match_folders(images.class_names, classifier.class_names, classifier.name)
    if classifier.note is not None:
        reporter.say(classifier.note)
    if classifier.has_seen(os.fspath(dataset), images.split):
        reporter.say(f"{classifier.name} was trained on images of {dataset}: these figures do not tell of new ones.")
    with silent_native_stderr():
        from hyperrule.prediction.accuracy import evaluate_images
    return evaluate_images(classifier, images, labels, reporter)


def check(dataset: str | Path, *, quiet: bool = False, **options: Any) -> Preflight:
    """What is wrong with a data set: every image decoded, compared with all others, and judged as `finetune` would.

    `options` are those of a recipe that say which images (`data_dir`, `image_key`, `test_split` ...) and `split_seed`
    and `exclude`. Raises UserError if the data set cannot be read at all.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        recipe = make_recipe({"dataset": dataset, **options, "skip_corrupt": True}, Recipe)
        source = source_of(recipe, reporter)

        from hyperrule.preflight.check_source import check_source

        return check_source(source, reporter)


def learning_curve(
    dataset: str | Path, *, size: int | None = None, quiet: bool = False, **options: Any
) -> LearningCurve:
    """Would more labels help? Accuracy of a closed-form probe against the number of labels, and what twice and four
    times as many should bring, with its uncertainty.

    Features are those of a frozen backbone of images of `size` x `size` pixels, by default 128; they are kept in the
    cache folder. `options` are those of a recipe that say which images, `split_seed`, `exclude`, `skip_corrupt`,
    `backbone` and `input_range`. Raises UserError if the request cannot be met, RunError if the work cannot be
    finished.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.insight.frozen import freeze
        from hyperrule.insight.learning_curve import find_learning_curve

        return find_learning_curve(freeze(make_recipe({"dataset": dataset, **options}, Recipe), size, Reporter(quiet)))


def label_errors(
    dataset: str | Path,
    *,
    split: str | None = None,
    top: int | None = None,
    size: int | None = None,
    quiet: bool = False,
    **options: Any,
) -> LabelErrors:
    """Images whose label is probably wrong: those that a closed-form probe, which has seen neither them nor images
    equal to them, finds in another class.

    They are the `top` most suspicious, by default those that stand out. `split` is "train", "validation", "test" or
    "all"; by default what is trained on, and all of a data set that is not split. `size` and `options` are as for
    `learning_curve`. Raises UserError if the request cannot be met, RunError if the work cannot be finished.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        if top is not None and (isinstance(top, bool) or top < 1):
            raise RecipeError(f"top must be at least 1. Received: {top!r}")
        from hyperrule.insight.frozen import freeze
        from hyperrule.insight.label_errors import chosen_splits, find_label_errors

        frozen = freeze(make_recipe({"dataset": dataset, **options}, Recipe), size, Reporter(quiet))
        return find_label_errors(frozen, chosen_splits(frozen.source, split), top)


def report(runs: str | Path | Iterable[str | Path], *, out: str | Path | None = None) -> Reported:
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


def bench(
    grid: str | Path,
    *,
    out: str | Path | None = None,
    jobs: int = 1,
    retry_failed: bool = False,
    datasets: Mapping[str, str | Path] | None = None,
    quiet: bool = False,
) -> Bench:
    """Measure every cell of a grid that the ledger in `out`, by default runs/bench/NAME, has no line of.

    `grid` is a YAML file or a shipped one ("bench/digits"), and `datasets` says where its data sets lie, by their names
    there. `jobs` processes share the machine. A cell that fails is a line with its reason, and is measured again with
    `retry_failed`; a process that is at work on the same ledger is left its cells. Raises UserError, with nothing
    written, if the grid cannot be measured as asked; Interrupted at a signal, with all that is finished in the ledger.
    """
    if isinstance(jobs, bool) or not 1 <= jobs <= MOST_JOBS:
        raise RecipeError(f"jobs must be from 1 to {MOST_JOBS}. Received: {jobs!r}")
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.benchmark.run_grid import run_grid

        asked, folder = _bench(grid, out, datasets)
        return run_grid(asked, folder, jobs, retry_failed, Reporter(quiet))


def plan_bench(
    grid: str | Path,
    *,
    out: str | Path | None = None,
    retry_failed: bool = False,
    datasets: Mapping[str, str | Path] | None = None,
    quiet: bool = False,
) -> Outlook:
    """What `bench` would do: its cells, which of them are done, and the time of the others. Raises UserError."""
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.benchmark.run_grid import plan_grid

        return plan_grid(*_bench(grid, out, datasets), retry_failed, Reporter(quiet))


def bench_status(grid: str | Path, *, out: str | Path | None = None) -> Status:
    """How far `bench` is, at once: from the grid and the ledger alone. Raises UserError."""
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.benchmark.outlook import status

        asked, folder = _bench(grid, out, None)
        return status(folder, asked)


def _bench(
    grid: str | Path, out: str | Path | None, datasets: Mapping[str, str | Path] | None
) -> tuple[Grid, BenchFolder]:
    from hyperrule.benchmark.folder import BenchFolder
    from hyperrule.benchmark.grid import grid_name, read_grid

    name = os.path.expanduser(grid)
    places = {dataset: os.fspath(place) for dataset, place in (datasets or {}).items()}
    folder = Path("runs", "bench", grid_name(name)) if out is None else Path(os.path.expanduser(out))
    return read_grid(name, places), BenchFolder(folder)


def _export_to(out: str | Path, name: FormatName) -> Path:
    return Path(os.path.expanduser(out), *(["1"] if name == "saved_model" else []))


def _run_folder(out: str | Path | None, restartable: bool) -> tuple[RunFolder | None, bool]:
    """The folder that is asked for, and whether its run has begun and is to be gone on with."""
    if restartable and out is None:
        raise RecipeError("--restartable needs a run folder that every start can find: say --out FOLDER.")
    if out is None:
        return None, False
    folder = RunFolder(Path(os.path.expanduser(out)))
    if restartable and (folder.finished or folder.plan_file.exists()):
        return folder, True
    if this_cluster().chief:
        check_free(folder.path)
    return folder, False


def _as_decided(recipe: R, stored: TrainingPlan) -> R:
    """The precision is decided once, for all machines."""
    return recipe.model_copy(update={"precision": stored.precision.value} if recipe.precision == "auto" else {})


def _measured(stored: TrainingPlan, recipe: TrainingRecipe) -> Calibration | None:
    return stored.calibration if recipe.budget is not None else None


def _resumable(
    folder: RunFolder, stored: TrainingPlan, planned: P, recipe: TrainingRecipe, options: Mapping[str, Any]
) -> P:
    """What is planned anew, where it is the stored plan but for how it is cut up. Raises RunFolderError."""
    own = planned.recipe.model_copy(update={"precision": recipe.precision})
    asked = planned.model_copy(update={"recipe": own})
    if recipe.precision == "auto":
        asked = asked.model_copy(update={"precision": stored.precision})
    if asked.machine == stored.machine and not options.keys() & PIECES:
        asked = asked.model_copy(update={"micro_batch": stored.micro_batch, "remat": stored.remat, "xla": stored.xla})
    calibration = _measured(stored, recipe)
    if differences := stored.differences(asked if calibration is None else asked.calibrated(calibration)):
        raise RunFolderError(
            f"{folder.path} runs under another plan than asked for: {'; '.join(differences)}. "
            "Resume it without other options and with its own data, or start a new run with --out."
        )
    return asked


@contextmanager
def _importing_tensorflow(plan: TrainingPlan) -> Iterator[None]:
    """Within the block it is imported, and told before how much memory a CPU may take for tensors: more is then an
    error of TensorFlow's, and the step is cut smaller. GPUs are bounded when they are started."""
    if plan.recipe.memory_limit is not None and not plan.machine.gpus:
        os.environ[CPU_LIMIT] = str(tensor_bytes(plan.backbone, plan.recipe.memory_limit))
    with silent_native_stderr():
        yield


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


def _plan(
    recipe: Recipe, reporter: Reporter, *, fetch: bool = True, before: Machine | None = None
) -> tuple[Plan, Source]:
    machine = _machine(recipe, before)
    source = source_of(recipe, reporter, fetch)
    training_examples(recipe, source)  # mistakes about the data come before a long download
    backbone = describe_backbone(recipe.backbone, reporter, input_range=recipe.input_range, fetch=fetch)
    return make_plan(recipe, source, backbone, machine, this_cluster().count), source


def _plan_distillation(
    recipe: DistillRecipe, reporter: Reporter, *, fetch: bool = True, before: Machine | None = None
) -> tuple[DistillPlan, Pool]:
    student = describe_student(recipe.student, reporter, fetch)
    pool = pool_of(recipe, reporter, fetch)
    teacher = describe_teacher(recipe, reporter, fetch)
    machine = _machine(recipe, before)
    return make_distill_plan(recipe, pool.info, teacher, student, machine, this_cluster().count), pool


def _machine(recipe: TrainingRecipe, before: Machine | None) -> Machine:
    """`before` is the machine of a run that is resumed: if its devices are these, what was free then still counts."""
    machine = this_machine("cpu" if recipe.devices == "tpu" else recipe.devices)
    if before is not None and before.devices == machine.devices:
        return before
    if machine.gpus:
        return machine
    # Workers of one host share its memory.
    return machine.model_copy(update={"available_memory": machine.available_memory // this_cluster().on_this_host})
