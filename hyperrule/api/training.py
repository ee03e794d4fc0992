"""Fine-tuning and distilling: what would be done, doing it, and going on with it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hyperrule.backbones.describe import backbones_at_hand, describe_backbone
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.open import pool_of, source_of
from hyperrule.data.pool import Pool
from hyperrule.data.source import Source
from hyperrule.errors import RecipeError, RunFolderError, UserError
from hyperrule.jobs.distill.describe import describe_student, describe_teacher
from hyperrule.planning.budget import Clock, estimated
from hyperrule.planning.cost import tensor_bytes
from hyperrule.planning.distill import DistillPlan, make_distill_plan
from hyperrule.planning.finetune import demand, make_plan, training_examples
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.machine.cluster import this_cluster
from hyperrule.planning.machine.machine import Machine, this_machine
from hyperrule.planning.training_plan import Calibration, TrainingPlan
from hyperrule.recipe import AUTO, EMBEDDED, LENGTHS, DistillRecipe, Recipe, TrainingRecipe, make_recipe
from hyperrule.run_folder import RunFolder, reserved
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter, silent_native_stderr
from hyperrule.support.wording import duration

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
LONG = 3600.0  # seconds
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
    job: Callable[[P, D, RunFolder, Reporter, Clock], Job[P, T]]
    result: Callable[[RunFolder], T]

    def run(self, out: str | Path | None, restartable: bool, quiet: bool, options: dict[str, Any]) -> T:
        started = time.monotonic()
        with _run_folder(out, restartable) as (folder, begun):
            with os_errors_as(UserError, "a path cannot be used"):
                if folder is not None and begun:
                    stored = folder.read_plan()
                    if TRAININGS[stored.job] is not self:
                        raise RunFolderError(f"{folder.path} holds a {stored.KIND}. Choose another --out.")
                    return self.result(folder) if folder.finished else self.resume(folder, stored, quiet, options)
                reporter = _reporter(quiet)
                planned, data = self.plan(make_recipe(options, self.recipe), reporter)
                _warn_if_long(planned, reporter)
            with reserved(folder, planned.run_name) as run:
                _import_tensorflow(planned)
                job = self.job(planned, data, run, reporter, _clock(planned, started))
                return job.execute(resuming=False)

    def resume(self, folder: RunFolder, stored: TrainingPlan, quiet: bool, options: dict[str, Any]) -> T:
        started, reporter = time.monotonic(), _reporter(quiet)
        with os_errors_as(UserError, "a path cannot be used"):
            recipe = make_recipe({**stored.recipe.model_dump(), **options}, self.recipe)
            planned, data = self.plan(_as_decided(recipe, stored), reporter, before=stored)
            planned = _resumable(folder, stored, planned, recipe, options)
        _import_tensorflow(planned)
        job = self.job(planned, data, folder, reporter, _clock(planned, started - _spent(folder)))
        return job.execute(resuming=True, calibration=_measured(stored, recipe))


def _finetuned(run: RunFolder) -> Finetuned:
    from hyperrule.jobs.result import finetuned

    return finetuned(run)


def _distilled(run: RunFolder) -> Distilled:
    from hyperrule.jobs.result import distilled

    return distilled(run)


def _finetuning(plan: Plan, source: Source, run: RunFolder, reporter: Reporter, clock: Clock) -> Finetuning:
    from hyperrule.jobs.budget import surveyed
    from hyperrule.jobs.finetune import Finetuning

    if plan.choice is not None and not plan.choice.measured:
        backbones = _backbones(plan.recipe, reporter)
        backbone, choice = surveyed(plan.recipe, source, backbones, plan.machine, clock, reporter)
        plan = make_plan(plan.recipe, source, backbone, plan.machine, plan.workers, choice)
    return Finetuning(plan, source, run, reporter, clock)


def _distillation(plan: DistillPlan, pool: Pool, run: RunFolder, reporter: Reporter, clock: Clock) -> Distillation:
    from hyperrule.jobs.distill.job import Distillation

    return Distillation(plan, pool, run, reporter, clock)


def _warn_if_long(plan: TrainingPlan, reporter: Reporter) -> None:
    """Say that training takes more than an hour, and how it would not, where nobody has asked for that length."""
    seconds = plan.estimate.training_seconds
    if seconds is None or seconds <= LONG or any(getattr(plan.recipe, length) is not None for length in LENGTHS):
        return
    options: tuple[str, ...] = getattr(plan, "faster", ())[:2]
    faster = "".join(f"\n  faster: {option}" for option in options)
    reporter.say(
        f"This trains for about {duration(seconds)}. Stop it with Ctrl-C at any time; it can be resumed.{faster}"
    )


def _clock(plan: TrainingPlan, started: float) -> Clock:
    return Clock(started, plan.recipe.budget or math.inf, time.monotonic() - started)


def _spent(run: RunFolder) -> float:
    """Return the seconds of its budget that an unfinished run has used, up to its last step."""
    return max((float(line.get("elapsed", 0.0)) for line in run.read_metrics()), default=0.0)


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


def _import_tensorflow(plan: TrainingPlan) -> None:
    """Import it, without its greetings on stderr, and bound its memory on a CPU.

    If tensors need more, TensorFlow raises an error, and the step is cut into smaller parts. GPUs are bounded when they
    are started.
    """
    if plan.recipe.memory_limit is not None and not plan.machine.gpus:
        os.environ[CPU_LIMIT] = str(tensor_bytes(plan.backbone, plan.recipe.memory_limit))
    with silent_native_stderr():
        import hyperrule.jobs.job  # noqa: F401


def _plan(recipe: Recipe, reporter: Reporter, *, fetch: bool = True, before: Plan | None = None) -> tuple[Plan, Source]:
    """Plan a new run, or with the choices of the run `before`, which is resumed."""
    machine, workers = _machine(recipe, before), this_cluster().count
    source = source_of(recipe, reporter, fetch)
    training_examples(recipe, source)  # mistakes about the data come before a long download
    if before is not None and recipe.backbone == AUTO:
        backbones = [describe_backbone(before.backbone.name, reporter, fetch=fetch)]
    else:
        backbones = _backbones(recipe, reporter, fetch, workers)
    choice = None if before is None else before.choice
    if before is None and recipe.budget is not None and workers == 1:
        demands = {one.name: demand(recipe, source, one, machine) for one in backbones}
        choice = estimated(backbones, demands, machine, recipe.budget)
    return make_plan(recipe, source, backbones[0], machine, workers, choice), source


def _backbones(recipe: Recipe, reporter: Reporter, fetch: bool = True, workers: int = 1) -> list[BackboneInfo]:
    """Return the backbone of the recipe, or those among which `auto` chooses."""
    if recipe.backbone == AUTO:
        return backbones_at_hand(reporter) if workers == 1 else [describe_backbone(EMBEDDED, reporter)]
    return [describe_backbone(recipe.backbone, reporter, input_range=recipe.input_range, fetch=fetch)]


def _plan_distillation(
    recipe: DistillRecipe, reporter: Reporter, *, fetch: bool = True, before: DistillPlan | None = None
) -> tuple[DistillPlan, Pool]:
    student = describe_student(recipe.student, reporter, fetch)
    pool = pool_of(recipe, reporter, fetch)
    teacher = describe_teacher(recipe, reporter, fetch)
    machine = _machine(recipe, before)
    return make_distill_plan(recipe, pool.info, teacher, student, machine, this_cluster().count), pool


def _machine(recipe: TrainingRecipe, before: TrainingPlan | None) -> Machine:
    """Return this machine; that of a run `before`, if its devices are these: what was free then still counts."""
    machine = this_machine("cpu" if recipe.devices == "tpu" else recipe.devices)
    if before is not None and before.machine.devices == machine.devices:
        return before.machine
    if machine.gpus:
        return machine
    # Workers of one host share its memory.
    return machine.model_copy(update={"available_memory": machine.available_memory // this_cluster().on_this_host})


FINETUNING = Training(Recipe, _plan, _finetuning, _finetuned)
DISTILLATION = Training(DistillRecipe, _plan_distillation, _distillation, _distilled)
TRAININGS: dict[str, Training[Any, Any, Any, Any]] = {"finetune": FINETUNING, "distill": DISTILLATION}
