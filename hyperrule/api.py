"""The Python API: check, plan, finetune, distill and resume; predict and evaluate; port; report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from hyperrule.backbones.describe import describe_backbone
from hyperrule.data import Source, Split, open_source
from hyperrule.data.pool import Pool, open_pool
from hyperrule.distill_recipe import DistillRecipe
from hyperrule.distillation.describe import describe_student, describe_teacher
from hyperrule.errors import RecipeError, RunFolderError, UserError
from hyperrule.export.port import Ported, port_backbone
from hyperrule.files import os_errors_as
from hyperrule.input_range import InputRange
from hyperrule.planning.cluster import this_cluster
from hyperrule.planning.distill_plan import DistillPlan
from hyperrule.planning.distill_planner import make_distill_plan
from hyperrule.planning.machine import Machine, this_machine
from hyperrule.planning.memory import tensor_bytes
from hyperrule.planning.plan import Plan
from hyperrule.planning.planner import make_plan, training_examples
from hyperrule.planning.training_plan import Calibration, TrainingPlan
from hyperrule.prediction.images import find_images, labelled_images
from hyperrule.prediction.labels import match_folders
from hyperrule.prediction.released import ReleasedClassifier, describe_classifier, make_asked
from hyperrule.progress import Reporter
from hyperrule.recipe import Recipe, TrainingRecipe, make_recipe
from hyperrule.run_folder import RunFolder, check_free
from hyperrule.silence import silent_native_stderr

if TYPE_CHECKING:
    from hyperrule.distillation.distillation import Distilled
    from hyperrule.finetuning import Result
    from hyperrule.prediction.accuracy import Accuracy
    from hyperrule.prediction.predictions import Prediction
    from hyperrule.preflight.findings import Preflight
    from hyperrule.reporting.make import Reported

P = TypeVar("P", bound=TrainingPlan)
R = TypeVar("R", bound=TrainingRecipe)
PIECES = {"micro_batch", "remat", "xla", "memory_limit", "devices"}  # options that say how a batch is cut up
# Read when TensorFlow is imported: tensorflow/core/common_runtime/mkl_cpu_allocator.h
CPU_LIMIT = "TF_MKL_ALLOC_MAX_BYTES"
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


def predict(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    top: int | None = None,
    size: int | None = None,
    activation: str | None = None,
    class_names: str | Path | None = None,
    input_range: tuple[float, float] | str | None = None,
    quiet: bool = False,
) -> list[Prediction]:
    """The `top` likeliest classes (by default 5, or all where there are fewer) of every image, without training.

    `model` is a name of the zoo that has a head, a hub handle, SavedModel folder or BiT .npz of a classifier, or a
    run folder. `images` are files and folders, which are searched. `size` is the side in pixels to which images are
    resized, by default what the classifier was released for. `activation`, `class_names` (a file with a name a line,
    or "imagenet-1k" or "imagenet-21k") and `input_range` are for files of unknown origin.

    An image that cannot be decoded has an `error`. Raises UserError if the request cannot be met, RunError if the
    work cannot be finished.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        asked = make_asked(size, activation, class_names, input_range)
        given = [images] if isinstance(images, str | Path) else images
        files = find_images(Path(os.path.expanduser(path)) for path in given)
        classifier = describe_classifier(os.fspath(model), asked, reporter)
        shown = _shown_classes(top, classifier)
    if classifier.note is not None:
        reporter.say(classifier.note)
    with silent_native_stderr():
        from hyperrule.prediction.predictions import predict_images
    return predict_images(classifier, files, shown, reporter)


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
    """Exact top-1, top-5 and loss of a classifier on labelled images, over all of its classes, without training.

    `dataset` is what it is for `finetune`, its classes called by WordNet id, name or index; all images count, but
    where they are split those of `split`, by default of the first of test, validation and train that there is.
    `data` are the options of a recipe that say which images (`data_dir`, `image_key`, `test_split` ...), others those
    of `predict`. Raises UserError if the request cannot be met, RunError if the work cannot be finished.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        asked = make_asked(size, activation, class_names, input_range)
        source = _source(make_recipe({"dataset": dataset, **data}, Recipe), reporter)
        images = labelled_images(os.fspath(dataset), source.listing, split)
        classifier = describe_classifier(os.fspath(model), asked, reporter)
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
        source = _source(recipe, reporter)
        from hyperrule.preflight.check_source import check_source

        return check_source(source, reporter)


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


def _shown_classes(top: int | None, classifier: ReleasedClassifier) -> int:
    if top is None:
        return min(DEFAULT_TOP, classifier.classes)
    if isinstance(top, bool) or not 1 <= top <= classifier.classes:
        raise RecipeError(
            f"top must be from 1 to {classifier.classes}, the classes of {classifier.name}. Received: {top!r}"
        )
    return top


def _source(recipe: Recipe, reporter: Reporter, fetch: bool = True) -> Source:
    return open_source(
        recipe.dataset,
        splits={split: name for split in get_args(Split) if (name := getattr(recipe, f"{split}_split")) is not None},
        data_dir=None if recipe.data_dir is None else Path(os.path.expanduser(recipe.data_dir)),
        image_key=recipe.image_key,
        label_key=recipe.label_key,
        split_seed=recipe.split_seed,
        skip_corrupt=recipe.skip_corrupt,
        strict=recipe.strict_data,
        exclude=None if recipe.exclude is None else Path(os.path.expanduser(recipe.exclude)),
        reporter=reporter,
        fetch=fetch,
    )


def _plan(
    recipe: Recipe, reporter: Reporter, *, fetch: bool = True, before: Machine | None = None
) -> tuple[Plan, Source]:
    machine = _machine(recipe, before)
    source = _source(recipe, reporter, fetch)
    training_examples(recipe, source)  # mistakes about the data come before a long download
    backbone = describe_backbone(recipe.backbone, reporter, input_range=recipe.input_range, fetch=fetch)
    return make_plan(recipe, source, backbone, machine, this_cluster().count), source


def _plan_distillation(
    recipe: DistillRecipe, reporter: Reporter, *, fetch: bool = True, before: Machine | None = None
) -> tuple[DistillPlan, Pool]:
    student = describe_student(recipe.student, reporter, fetch)
    data_dir = None if recipe.data_dir is None else Path(os.path.expanduser(recipe.data_dir))
    pool = open_pool(recipe.dataset, data_dir, recipe.split_seed, recipe.skip_corrupt, reporter, fetch)
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
