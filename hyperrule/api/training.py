"""Fine-tuning and distilling: what would be done, doing it, and going on with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hyperrule.backbones.describe import describe_backbone
from hyperrule.data.open import pool_of, source_of
from hyperrule.data.pool import Pool
from hyperrule.data.source import Source
from hyperrule.errors import RecipeError, RunFolderError, UserError
from hyperrule.jobs.distill.describe import describe_student, describe_teacher
from hyperrule.planning.cost import tensor_bytes
from hyperrule.planning.distill import DistillPlan, make_distill_plan
from hyperrule.planning.finetune import Plan, make_plan, training_examples
from hyperrule.planning.machine.cluster import this_cluster
from hyperrule.planning.machine.machine import Machine, this_machine
from hyperrule.planning.training_plan import Calibration, TrainingPlan
from hyperrule.recipe import DistillRecipe, Recipe, TrainingRecipe, make_recipe
from hyperrule.run_folder import RunFolder, reserved
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter, silent_native_stderr

if TYPE_CHECKING:
    from hyperrule.jobs.distill.job import Distillation
    from hyperrule.jobs.finetune import Finetuning
    from hyperrule.jobs.job import Job
    from hyperrule.jobs.result import Distilled, Finetuned, Result

R = TypeVar("R", bound=TrainingRecipe)
P = TypeVar("P", bound=TrainingPlan)
D = TypeVar("D")
T = TypeVar("T", bound="Result")
EXECUTION_OPTIONS = {"micro_batch", "remat", "xla", "memory_limit", "devices"}  # options that say how a batch is cut up
# Read when TensorFlow is imported: tensorflow/core/common_runtime/mkl_cpu_allocator.h
CPU_LIMIT = "TF_MKL_ALLOC_MAX_BYTES"


def plan(**options: Any) -> Plan:
    """Plan `finetune(**options)`: every value with its reason. Imports TensorFlow only to inspect a new SavedModel.

    Options are those of `hyperrule.recipe.Recipe`; `dataset` is required. Weights that 'hyperrule backbones'
    lists are not downloaded. Raises UserError.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        return _plan(make_recipe(options, Recipe), Reporter(), fetch=False)[0]


def finetune(
    *, out: str | Path | None = None, restartable: bool = False, quiet: bool = False, **options: Any
) -> Finetuned:
    """Fine-tune, evaluate, export; returns the finished run.

    `out` is the run folder, by default a new one under `runs/`. With `restartable`, an unfinished run of the same
    request in `out` is resumed, and the result of a finished one returned. `quiet` shows no progress. `options` are
    those of `hyperrule.recipe.Recipe`; `dataset` is required; `memory_limit` bounds a CPU only if TensorFlow has not
    been imported yet. If TF_CONFIG or SLURM make this process one of several workers, all of them must call this; only
    the first writes. Sets Keras' global seed and, on a CPU, TensorFlow's deterministic operations.

    Raises UserError, with nothing written, if the request cannot be met; RunError if the work cannot be finished.
    """
    return FINETUNING.run(out, restartable, quiet, options)


def plan_distillation(**options: Any) -> DistillPlan:
    """Plan `distill(**options)`: every value with its reason. Raises UserError."""
    with os_errors_as(UserError, "a path cannot be used"):
        return _plan_distillation(make_recipe(options, DistillRecipe), Reporter(), fetch=False)[0]


def distill(
    *, out: str | Path | None = None, restartable: bool = False, quiet: bool = False, **options: Any
) -> Distilled:
    """Distil a teacher into a BiT, by function matching on images without labels; returns the finished run.

    `options` are those of `hyperrule.recipe.DistillRecipe`; `teacher` and `dataset` (one or several) are required. All
    else is as for `finetune`. The run's weights.npz holds the student; `finetune` takes the run folder as `backbone`.
    """
    return DISTILLATION.run(out, restartable, quiet, options)


def resume(run: str | Path, *, quiet: bool = False, **options: Any) -> Result:
    """Resume an unfinished run of `finetune` or `distill` under its own plan, on the devices that there are now.

    Data and networks must be what they were, and `options`, if any, must not change the plan:
    raises RunFolderError with the differences otherwise, or if the run is finished.
    """
    folder = RunFolder(Path(run))
    with os_errors_as(UserError, "a path cannot be used"):
        stored = folder.read_plan()
        if folder.finished:
            raise RunFolderError(f"{folder.path} is finished; its result is in {folder.report_file}.")
    result: Result = TRAININGS[stored.job].resume(folder, stored, quiet, options)
    return result


@dataclass(frozen=True)
class Training(Generic[R, P, D, T]):
    """A kind of training: its recipe, its planner, its job and its result.

    `plan` returns the plan and the opened data; `job` imports TensorFlow; `result` reads a finished run.
    """

    recipe: type[R]
    plan: Callable[..., tuple[P, D]]
    job: Callable[[P, D, RunFolder, Reporter], Job[P, T]]
    result: Callable[[RunFolder], T]

    def run(self, out: str | Path | None, restartable: bool, quiet: bool, options: dict[str, Any]) -> T:
        with _run_folder(out, restartable) as (folder, begun):
            with os_errors_as(UserError, "a path cannot be used"):
                if folder is not None and begun:
                    stored = folder.read_plan()
                    if TRAININGS[stored.job] is not self:
                        raise RunFolderError(f"{folder.path} holds a {stored.KIND}. Choose another --out.")
                    return self.result(folder) if folder.finished else self.resume(folder, stored, quiet, options)
                reporter = _reporter(quiet)
                planned, data = self.plan(make_recipe(options, self.recipe), reporter)
            with reserved(folder, planned.run_name) as run:
                with _importing_tensorflow(planned):
                    job = self.job(planned, data, run, reporter)
                return job.execute(resuming=False)

    def resume(self, folder: RunFolder, stored: TrainingPlan, quiet: bool, options: dict[str, Any]) -> T:
        reporter = _reporter(quiet)
        with os_errors_as(UserError, "a path cannot be used"):
            recipe = make_recipe({**stored.recipe.model_dump(), **options}, self.recipe)
            planned, data = self.plan(_as_decided(recipe, stored), reporter, before=stored.machine)
            planned = _resumable(folder, stored, planned, recipe, options)
        with _importing_tensorflow(planned):
            job = self.job(planned, data, folder, reporter)
        return job.execute(resuming=True, calibration=_measured(stored, recipe))


def _finetuned(run: RunFolder) -> Finetuned:
    from hyperrule.jobs.result import finetuned

    return finetuned(run)


def _distilled(run: RunFolder) -> Distilled:
    from hyperrule.jobs.result import distilled

    return distilled(run)


def _finetuning(plan: Plan, source: Source, run: RunFolder, reporter: Reporter) -> Finetuning:
    from hyperrule.jobs.finetune import Finetuning

    return Finetuning(plan, source, run, reporter)


def _distillation(plan: DistillPlan, pool: Pool, run: RunFolder, reporter: Reporter) -> Distillation:
    from hyperrule.jobs.distill.job import Distillation

    return Distillation(plan, pool, run, reporter)


def _reporter(quiet: bool) -> Reporter:
    return Reporter(quiet or not this_cluster().chief)


@contextmanager
def _run_folder(out: str | Path | None, restartable: bool) -> Iterator[tuple[RunFolder | None, bool]]:
    """Yield the folder `out`, and whether to resume the run in it; a new one is reserved within the block."""
    if restartable and out is None:
        raise RecipeError("--restartable needs a run folder that every start can find: say --out FOLDER.")
    if out is None:
        yield None, False
        return
    with ExitStack() as held:
        with os_errors_as(UserError, "a path cannot be used"):
            folder = RunFolder(Path(os.path.expanduser(out)))
            begun = restartable and (folder.finished or folder.plan_file.exists())
            if not begun:
                held.enter_context(reserved(folder))
        yield folder, begun


def _as_decided(recipe: R, stored: TrainingPlan) -> R:
    """The precision is decided once, for all machines."""
    return recipe.model_copy(update={"precision": stored.precision.value} if recipe.precision == "auto" else {})


def _measured(stored: TrainingPlan, recipe: TrainingRecipe) -> Calibration | None:
    return stored.calibration if recipe.budget is not None else None


def _resumable(
    folder: RunFolder, stored: TrainingPlan, planned: P, recipe: TrainingRecipe, options: Mapping[str, Any]
) -> P:
    """Return the new plan, if it differs from the stored one in its execution at most. Raises RunFolderError."""
    own = planned.recipe.model_copy(update={"precision": recipe.precision})
    asked = planned.model_copy(update={"recipe": own})
    if recipe.precision == "auto":
        asked = asked.model_copy(update={"precision": stored.precision})
    if asked.machine == stored.machine and not options.keys() & EXECUTION_OPTIONS:
        asked = asked.model_copy(update={"micro_batch": stored.micro_batch, "remat": stored.remat, "xla": stored.xla})
    calibration = _measured(stored, recipe)
    if differences := stored.differences(asked if calibration is None else asked.calibrated(calibration)):
        raise RunFolderError(
            f"{folder.path} was planned differently: {'; '.join(differences)}. "
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


FINETUNING = Training(Recipe, _plan, _finetuning, _finetuned)
DISTILLATION = Training(DistillRecipe, _plan_distillation, _distillation, _distilled)
TRAININGS: dict[str, Training[Any, Any, Any, Any]] = {"finetune": FINETUNING, "distill": DISTILLATION}
