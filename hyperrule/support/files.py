"""Files: written whole or not at all, locked against other processes, cached; errors in one line; .npy headers."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from tokenize import TokenError
from typing import IO, Any, Self, TextIO

import numpy as np
import pooch

from hyperrule.errors import HyperruleError, RunError, UserError
from hyperrule.support.progress import Reporter

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LONGEST_WAIT = 1.0  # seconds between two looks at a lock
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
BEYOND = 2**40  # bytes: no file that is locked is so large


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target` that takes its place, flushed to the disk, when the block ends.
    Whoever shares the target with other processes holds a lock.

    Raises RunError, with `target` as it was, if it cannot be written.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with os_errors_as(RunError, f"cannot write {target}"):
            yield partial
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def os_errors_as(kind: type[HyperruleError], what: str) -> Iterator[None]:
    """Turns an OSError within the block into `kind`, with `what` before the reason."""
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        where = f" ({str(error.filename)[:80]})" if error.filename and str(error.filename) not in what else ""
        raise kind(f"{what}: {why}{where}.") from None


@contextmanager
def taking_its_place(target: Path) -> Iterator[Path]:
    """Yields a path beside `target`, which must not exist, that gets its name when the block ends.

    Raises UserError, before anything long is begun, if it could not be written there.
    """
    if os.path.lexists(target):
        raise UserError(f"{target} exists. Choose a name that is free, or remove it first.")
    with os_errors_as(UserError, f"cannot write {target}"):
        scratch = TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    with scratch:
        staging = Path(scratch.name, target.name)
        yield staging
        with os_errors_as(RunError, f"cannot write {target}"):
            os.rename(staging, target)


@contextmanager
def parent_made(target: Path) -> Iterator[None]:
    """Make the folder of `target` for the block, where its own exists; if nothing is in it then, it goes again."""
    missing = not target.parent.exists()
    if missing:
        with os_errors_as(UserError, f"cannot write {target}"):
            target.parent.mkdir()
    try:
        yield
    finally:
        if missing and not any(target.parent.iterdir()):
            target.parent.rmdir()


def cache_folder() -> Path:
    """HYPERRULE_CACHE_DIR, or the user's cache folder of the operating system."""
    return Path(os.path.expanduser(os.environ.get("HYPERRULE_CACHE_DIR") or pooch.os_cache("hyperrule"))).absolute()


@contextmanager
def file_lock(file: Path, reporter: Reporter | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if need be and stays, within the block; other processes wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _opened_for_locking(file) as stream:
        if not _try_lock(stream):
            if reporter is not None:
                reporter.say(f"Waiting for another process that holds {file}.")
            lock_stream(stream)
        yield


@contextmanager
def try_file_lock(file: Path, patience: float = 0.0) -> Iterator[TextIO | None]:
    """Yields the open file, locked within the block, or None if another process holds it for `patience` seconds more.

    The file is made if need be, in a folder that is there, and never removed: two processes could then hold two files
    of one name.
    """
    with _opened_for_locking(file) as stream:
        end = time.monotonic() + patience
        locked = _try_lock(stream)
        while not locked and time.monotonic() < end:
            time.sleep(min(patience, LONGEST_WAIT))
            locked = _try_lock(stream)
        yield stream if locked else None


def lock_stream(stream: IO[Any]) -> None:
    """Wait for an exclusive lock on an open file; it is released when the file is closed or the process dies."""
    if fcntl is not None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        return
    while not _try_lock(stream):
        time.sleep(LONGEST_WAIT)


def _opened_for_locking(file: Path) -> TextIO:
    return file.open("a")  # open for writing: network file systems ask for that


def _try_lock(stream: IO[Any]) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _lock_on_windows(stream)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock_on_windows(stream: IO[Any]) -> None:
    """Raises PermissionError if another process holds it."""
    import msvcrt

    stream.seek(BEYOND)  # a byte that is locked cannot be read by others
    msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    stream.seek(0, os.SEEK_END)


class PickledObjects(ValueError):
    """A .npy file whose objects would have to be unpickled, which may run code."""


@dataclass(frozen=True)
class NpyHeader:
    """What a .npy file says of its array; `offset` is where the data begin, in bytes from the start of the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    offset: int

    @classmethod
    def read(cls, stream: IO[bytes]) -> Self:
        """Raises ValueError if the stream holds no array, or Python objects, which are never unpickled."""
        version = np.lib.format.read_magic(stream)
        if version not in NPY_HEADERS:
            raise ValueError(f"version {version} of .npy")
        try:
            shape, is_fortran, dtype = NPY_HEADERS[version](stream)
        except TokenError:
            raise ValueError("a damaged header") from None
        if dtype.hasobject:
            raise PickledObjects("an array of Python objects, which may run code when it is read; save numbers or text")
        return cls(dtype, shape, "F" if is_fortran else "C", stream.tell())
