"""Files that are written whole or not at all, and what the operating system says about them in one line.

What is fetched or unpacked once: where it is kept, and who may write there.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch

from hyperrule.errors import HyperruleError, RunError, UserError
from hyperrule.support.progress import Reporter


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
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
def alone(lock: Path, reporter: Reporter | None = None) -> Iterator[None]:
    """Hold the lock within the block; other processes wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if reporter is not None:
                reporter.say(f"Waiting for another process that holds {lock}.")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
