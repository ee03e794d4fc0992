"""The Python API: `hyperrule.plan(...)` and `hyperrule.finetune(...)`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperrule.backbones.describe import describe_backbone
from hyperrule.data import Source, open_source
from hyperrule.errors import RunFolderError, UserError
from hyperrule.files import os_errors_as
from hyperrule.planning.machine import Machine, this_machine
from hyperrule.planning.plan import Plan
from hyperrule.planning.planner import calibrated, make_plan, training_examples
from hyperrule.progress import Reporter
from hyperrule.recipe import Recipe, make_recipe
from hyperrule.run_folder import RunFolder, check_free
from hyperrule.silence import silent_native_stderr

if TYPE_CHECKING:
    from hyperrule.job import Result


def plan(**options: Any) -> Plan:
    """What `finetune(**options)` would do, each value with its reason; TensorFlow is not imported, but to look
    into a SavedModel for the first time.

    Options are those of `hyperrule.recipe.Recipe`; `dataset` is required. Weights that 'hyperrule backbones'
    lists are not downloaded. Raises UserError.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        return _plan(make_recipe(options), this_machine(), Reporter(), fetch=False)[0]


def finetune(*, out: str | Path | None = None, quiet: bool = False, **options: Any) -> Result:
    """Fine-tune, evaluate, export; returns the finished run.

    `out` is the run folder, by default a new one under `runs/`. `quiet` shows no progress. On a CPU,
    TensorFlow is set to deterministic operations, and Keras' global seed is set. Other
    options are those of `hyperrule.recipe.Recipe`; `dataset` is required. Raises UserError, with
    nothing written, if the request cannot be met; RunError if the work cannot be finished.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        folder = None if out is None else Path(os.path.expanduser(out))
        if folder is not None:
            check_free(folder)
        planned, source = _plan(make_recipe(options), this_machine(), Reporter(quiet))
    with silent_native_stderr():
        from hyperrule.job import run_plan
    return run_plan(planned, source, folder, Reporter(quiet))


def resume(run: str | Path, *, quiet: bool = False, **options: Any) -> Result:
    """Go on with an unfinished run, under its own plan.

    Data and backbone must be what they were, and `options`, if any, must not change the plan:
    raises RunFolderError with the differences otherwise, or if the run is finished.
    """
    folder = RunFolder(Path(run))
    with os_errors_as(UserError, "a path cannot be used"):
        stored = folder.read_plan()
        if folder.finished:
            raise RunFolderError(f"{folder.path} is finished; its result is in {folder.summary_file}.")
        recipe = make_recipe({**stored.recipe.model_dump(), **options})
        asked, source = _plan(recipe, stored.machine, Reporter(quiet))
    if stored.calibration is not None and recipe.budget is not None:
        asked = calibrated(asked, stored.calibration)
    if differences := stored.differences(asked):
        raise RunFolderError(
            f"{folder.path} runs under another plan than asked for: {'; '.join(differences)}. "
            "Resume it without other options and with its own data, or start a new run with --out."
        )
    with silent_native_stderr():
        from hyperrule.job import resume_run
    return resume_run(folder, asked, source, Reporter(quiet))


def _plan(recipe: Recipe, machine: Machine, reporter: Reporter, *, fetch: bool = True) -> tuple[Plan, Source]:
    source = open_source(recipe.dataset, recipe.split_seed, recipe.skip_corrupt)
    training_examples(recipe, source)  # mistakes about the data come before a long download
    backbone = describe_backbone(recipe.backbone, reporter, input_range=recipe.input_range, fetch=fetch)
    return make_plan(recipe, source, backbone, machine), source
