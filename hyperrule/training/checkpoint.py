"""Checkpoints of a run: one .npz a time, written whole or not at all, the last two kept."""

import re
from collections.abc import Callable
from pathlib import Path

from hyperrule.backbones.bit.checkpoints import Arrays, read_arrays, write_arrays
from hyperrule.errors import BackboneError, RunError
from hyperrule.support.files import os_errors_as, whole_file

KEPT = 2


def save_checkpoint(folder: Path, step: int, arrays: Arrays, resume: str) -> Path:
    """Write the state after `step` steps. Raises RunError, older checkpoints untouched, if it cannot; the error tells
    people to go on with `resume`."""
    with os_errors_as(RunError, f"cannot write {folder}"):
        folder.mkdir(exist_ok=True)
    target = folder / f"step-{step:08d}.npz"
    try:
        with whole_file(target) as partial:
            write_arrays(partial, arrays)
    except RunError as error:
        kept = f"Earlier checkpoints are kept; continue with: {resume}"
        raise RunError(f"{error} {kept}") from None
    for old in _checkpoints(folder)[:-KEPT]:
        old.unlink()
    return target


def latest_checkpoint(folder: Path, say: Callable[[str], None] = lambda line: None) -> tuple[int, Arrays] | None:
    """Step and state of the newest checkpoint that can be read, or None; `say` hears of those passed over."""
    for path in reversed(_checkpoints(folder)):
        try:
            return int(path.stem.removeprefix("step-")), read_arrays(path)
        except BackboneError as error:
            say(f"Passing over a damaged checkpoint: {error}")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.npz") if re.fullmatch(r"step-\d{8}", path.stem))
