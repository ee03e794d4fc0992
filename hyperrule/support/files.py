"""Files: atomic writes, locks between processes, the cache folder, one-line errors, .npy headers."""

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

LONGEST_WAIT = 1.0  # seconds between two attempts to lock a file
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LOCKED_BYTE = 2**40  # offset; beyond the end of any locked file


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; when the block ends, flush that file to disk and rename it to `target`.

    If several processes may write `target`, the caller must hold a lock. Raises RunError, and leaves `target`
    unchanged, if the file cannot be written.
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


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 file atomically. Raises RunError, as `atomic_write` does."""
    with atomic_write(target) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def os_errors_as(kind: type[HyperruleError], what: str) -> Iterator[None]:
    """Turn an OSError within the block into `kind`; its message is `what` and the reason."""
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        where = f" ({str(error.filename)[:80]})" if error.filename and str(error.filename) not in what else ""
        raise kind(f"{what}: {why}{where}.") from None


@contextmanager
def staged_output(target: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder beside `target`; when the block ends, rename it to `target`.

    Raises UserError, before the block starts, if `target` exists or its folder is not writable. Raises RunError if the
    rename fails.
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
    """Create the parent folder of `target` if it is missing; remove it after the block if it is still empty.

    Raises UserError if the folder cannot be created, for example because its own parent is missing.
    """
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
    """Return HYPERRULE_CACHE_DIR if it is set, else a folder in the user's cache folder of the operating system."""
    return Path(os.path.expanduser(os.environ.get("HYPERRULE_CACHE_DIR") or pooch.os_cache("hyperrule"))).absolute()


@contextmanager
def file_lock(file: Path, reporter: Reporter | None = None) -> Iterator[None]:
    """Hold an exclusive lock on `file` within the block; wait if another process holds it.

    The file is created if it is missing, with its folder, and never removed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _opened_for_locking(file) as stream:
        if not _try_lock(stream):
            if reporter is not None:
                reporter.say(f"Waiting for another process that holds {file}.")
            lock_stream(stream)
        yield


@contextmanager
def try_file_lock(file: Path, patience: float = 0.0) -> Iterator[TextIO | None]:
    """Yield the open file, locked within the block, or None if another process holds the lock for `patience` seconds.

    The file is created if it is missing; its folder must exist. It is never removed: otherwise two processes could lock
    two different files of the same name.
    """
    with _opened_for_locking(file) as stream:
        end = time.monotonic() + patience
        locked = _try_lock(stream)
        while not locked and time.monotonic() < end:
            time.sleep(min(patience, LONGEST_WAIT))
            locked = _try_lock(stream)
        yield stream if locked else None


def lock_stream(stream: IO[Any]) -> None:
    """Wait for an exclusive lock on an open file. Closing the file or the end of the process releases it."""
    if fcntl is not None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        return
    while not _try_lock(stream):
        time.sleep(LONGEST_WAIT)


def _opened_for_locking(file: Path) -> TextIO:
    return file.open("a")  # network file systems lock only files that are open for writing


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
    """Lock the file. Raises PermissionError if another process holds the lock."""
    import msvcrt

    stream.seek(LOCKED_BYTE)  # Windows keeps other processes from reading a locked byte
    msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    stream.seek(0, os.SEEK_END)


class PickledObjects(ValueError):
    """A .npy file of Python objects: reading it would unpickle them, which may run code."""


@dataclass(frozen=True)
class NpyHeader:
    """The header of a .npy file. `order` is "C" or "F"; `offset` is where the data begin, in bytes from the start."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    offset: int

    @classmethod
    def read(cls, stream: IO[bytes]) -> Self:
        """Read the header. Raises ValueError if it is invalid, and PickledObjects (a ValueError) for Python objects."""
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
