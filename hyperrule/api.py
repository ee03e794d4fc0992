"""The Python API: `hyperrule.plan(...)` and `hyperrule.finetune(...)`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperrule.data import Source, open_source
from hyperrule.errors import RunFolderError, UserError
from hyperrule.files import os_errors_as
from hyperrule.planning.machine import this_machine
from hyperrule.planning.plan import Plan
from hyperrule.planning.planner import calibrated, make_plan
from hyperrule.progress import Reporter
from hyperrule.recipe import make_recipe
from hyperrule.run_folder import RunFolder, check_free

if TYPE_CHECKING:
    from hyperrule.job import Result


def plan(**options: Any) -> Plan:
    """What `finetune(**options)` would do, each value with its reason; TensorFlow is not imported.

    Options are those of `hyperrule.recipe.Recipe`; `dataset` is required. Raises UserError.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        return _plan(options)[0]


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
        planned, source = _plan(options)
    with _silent_native_stderr():
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
        source = open_source(recipe.dataset, recipe.split_seed, recipe.skip_corrupt)
        asked = make_plan(recipe, source, stored.machine)
    if stored.calibration is not None and recipe.budget is not None:
        asked = calibrated(asked, stored.calibration)
    if differences := stored.differences(asked):
        raise RunFolderError(
            f"{folder.path} runs under another plan than asked for: {'; '.join(differences)}. "
            "Resume it without other options and with its own data, or start a new run with --out."
        )
    with _silent_native_stderr():
        from hyperrule.job import resume_run
    return resume_run(folder, asked, source, Reporter(quiet))


def _plan(options: dict[str, Any]) -> tuple[Plan, Source]:
    recipe = make_recipe(options)
    source = open_source(recipe.dataset, recipe.split_seed, recipe.skip_corrupt)
    return make_plan(recipe, source, this_machine()), source


@contextmanager
def _silent_native_stderr() -> Iterator[None]:
    """TensorFlow's C++ side greets on stderr while it is imported, before any log level counts."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
