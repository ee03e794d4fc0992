"""Checkpoints of a run: one .npz a time, written whole or not at all, the last two kept."""

import errno
import os
import re
from pathlib import Path

from hyperrule.backbones.checkpoints import Arrays, read_arrays, write_arrays
from hyperrule.errors import BackboneError, RunError

KEPT = 2


def save_checkpoint(folder: Path, step: int, arrays: Arrays) -> Path:
    """Write the state after `step` steps. Raises RunError, older checkpoints untouched, if it cannot."""
    folder.mkdir(exist_ok=True)
    target = folder / f"step-{step:08d}.npz"
    write_whole(target, arrays)
    for old in _checkpoints(folder)[:-KEPT]:
        old.unlink()
    return target


def latest_checkpoint(folder: Path) -> tuple[int, Arrays] | None:
    """Step and state of the newest checkpoint that can be read, or None."""
    for path in reversed(_checkpoints(folder)):
        try:
            return int(path.stem.removeprefix("step-")), read_arrays(path)
        except BackboneError:
            continue
    return None


def write_whole(target: Path, arrays: Arrays) -> None:
    """Write an .npz under a temporary name, flush it to the disk, and rename it."""
    partial = target.with_suffix(".partial")
    try:
        write_arrays(partial, arrays)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise RunError(f"cannot write {target}: {why}. Earlier checkpoints are kept.") from None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.npz") if re.fullmatch(r"step-\d{8}", path.stem))
