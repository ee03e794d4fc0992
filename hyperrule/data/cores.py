"""Work on images on all cores, in order."""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from hyperrule.data.contents import Contents
from hyperrule.errors import RunError

Result = TypeVar("Result")

_worker = threading.local()


@contextmanager
def on_all_cores(
    work: Callable[[Contents, int], Result], contents: Contents, tasks: Sequence[int]
) -> Iterator[Iterator[Result]]:
    """Yields `work(contents, task)` for every task, in their order. Raises RunError if a process is killed.

    Small images leave no time to threads, for most of their time is Python's; and processes that start anew take
    longer to import than small data sets to decode, and would get contents in copies. So processes are forks, where
    that is safe: on Linux, before TensorFlow has been imported. Elsewhere threads do the work.
    """
    if len(tasks) <= 1:
        yield (work(contents, task) for task in tasks)
        return
    executor = _executor(work, contents)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks beside numpy's idle threads
            results = executor.map(_run, tasks)
        yield results
    except BrokenProcessPool:
        raise RunError("a process that decodes images was killed: is the memory exhausted?") from None
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(work: Callable[[Contents, int], Any], contents: Contents) -> Executor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if sys.platform == "linux" and "tensorflow" not in sys.modules:
        # Forks inherit what is given, uncopied.
        return ProcessPoolExecutor(cores, get_context("fork"), initializer=_remember, initargs=(work, contents))
    return ThreadPoolExecutor(cores, initializer=_remember, initargs=(work, contents))


def _remember(work: Callable[[Contents, int], Any], contents: Contents) -> None:
    _worker.work, _worker.contents = work, contents


def _run(task: int) -> Any:
    return _worker.work(_worker.contents, task)
