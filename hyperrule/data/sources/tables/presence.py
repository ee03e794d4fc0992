"""Which of many paths are files."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Indices


def absent(folder: Path, paths: npt.NDArray[np.object_]) -> Indices:
    """Numbers, ascending, of the paths (str [n], relative to `folder` or absolute) that are no files.

    Lists every folder once: to ask for a million files one by one takes far longer. Raises OSError for folders that
    may not be listed.
    """
    if not len(paths):
        return np.zeros(0, np.int64)
    numbers: dict[str, int] = {}
    parents = (numbers.setdefault(os.path.dirname(path), len(numbers)) for path in paths)
    which = np.fromiter(parents, np.int32, len(paths))
    ends = np.cumsum(np.bincount(which, minlength=len(numbers)))[:-1]
    by_parent = np.split(np.argsort(which, kind="stable"), ends)
    found = np.zeros(len(paths), np.bool_)
    for parent, members in zip(numbers, by_parent, strict=True):
        files = _files(Path(folder, parent))
        found[members] = [os.path.basename(path) in files for path in paths[members]]
    return np.flatnonzero(~found)


def _files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path with a zero byte
        return set()
