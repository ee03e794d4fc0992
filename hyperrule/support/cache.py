"""What is fetched or unpacked once: where it is kept, and who may write there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch

from hyperrule.support.progress import Reporter


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
