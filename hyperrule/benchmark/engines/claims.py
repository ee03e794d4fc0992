"""Who is at work on a cell: a lock on a file of its key, which the system gives back when a process dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hyperrule.errors import RunError
from hyperrule.support.files import os_errors_as

LOOKED_AT = 0.05  # seconds in which whoever asks `at_work` has let go of a lock again


@contextmanager
def claim(folder: Path, key: str, what: str, patience: float = LOOKED_AT) -> Iterator[bool]:
    """Whether the cell is this process's for the block; not, if another process is at work on it, and still is after
    `patience` seconds. `what` tells people."""
    with os_errors_as(RunError, f"cannot lock a cell in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / key).open("a")  # open for writing: network file systems ask for that
    with lock:
        mine = _locked(lock) or _locked_within(lock, patience)
        if mine:
            lock.truncate(0)
            lock.write(what)
            lock.flush()
        yield mine


def at_work(folder: Path) -> dict[str, str]:
    """What processes are at work on, by key."""
    found = {}
    for file in sorted(folder.glob("*")):
        with file.open("a") as lock:
            if not _locked(lock):
                found[file.name] = file.read_text()
    return found


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_within(lock: TextIO, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(seconds, 1.0))
        if _locked(lock):
            return True
    return False
