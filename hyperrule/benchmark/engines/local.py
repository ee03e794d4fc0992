"""Executes the tasks of a benchmark in processes on this machine, several at a time.

A pipe ties each process to this one (see `launch.tether`): when this process dies in any way, they end, too.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from signal import Signals

from hyperrule.benchmark.engines.tasks import Assignment, Task, signals_to, stopped_by
from hyperrule.planning.machine.machine import this_machine
from hyperrule.training.launch.hosts import Worker
from hyperrule.training.launch.process import WorkerProcess

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
VISIBLE = "CUDA_VISIBLE_DEVICES"
Events = SimpleQueue[tuple[int, int] | Signals]


def run_locally(folder: Path, assignments: Sequence[Assignment], jobs: int, ended: Callable[[Task, int], None]) -> None:
    """Execute every task in its own process, `jobs` at a time, and call `ended` with each task and its exit code.

    Raises Interrupted at SIGINT or SIGTERM, when all have stopped.
    """
    events: Events = SimpleQueue()
    left, free = deque(assignments), list(reversed(range(jobs)))
    running: dict[int, tuple[Task, WorkerProcess]] = {}
    received: Signals | None = None
    with signals_to(events.put):
        while running or (left and received is None):
            while left and free and received is None:
                slot, assignment = free.pop(), left.popleft()
                running[slot] = assignment.task, _start(slot, folder, assignment, events)
            event = events.get()
            if isinstance(event, Signals):
                received = received or event
                for _, process in running.values():
                    process.send(event)
                continue
            slot, code = event
            task, process = running.pop(slot)
            process.tell_reason()
            free.append(slot)
            if received is None:
                ended(task, code)
    if received is not None:
        raise stopped_by(received)


def command(folder: Path, assignment: Assignment) -> list[str]:
    """Return the command line that executes an assignment."""
    return [sys.executable, "-m", "hyperrule.benchmark.engines.work", str(folder), assignment.model_dump_json()]


def _start(slot: int, folder: Path, assignment: Assignment, events: Events) -> WorkerProcess:
    machine, environment = this_machine(), {}
    if assignment.jobs > 1:
        visible = _visible(len(machine.gpus))
        environment = threads(machine.cores // assignment.jobs) | gpus(slot, assignment.jobs, visible)
    worker = Worker(slot, "this machine", (), environment)
    return WorkerProcess(worker, command(folder, assignment), lambda slot, code: events.put((slot, code)))


def _visible(count: int) -> list[str]:
    """Return the visible GPUs by the names that CUDA_VISIBLE_DEVICES takes."""
    return os.environ[VISIBLE].split(",")[:count] if VISIBLE in os.environ else [str(index) for index in range(count)]


def threads(count: int) -> dict[str, str]:
    """Return the variables that limit a process to `count` threads, at least one; those set by the user win."""
    return {name: os.environ.get(name, str(max(1, count))) for name in THREADS}


def gpus(slot: int, jobs: int, visible: Sequence[str]) -> dict[str, str]:
    """Return the variable that shows one of `jobs` processes its share of the GPUs, or a GPU that several share.

    >>> gpus(1, 2, "4567"), gpus(2, 3, "01"), gpus(0, 2, "")
    ({'CUDA_VISIBLE_DEVICES': '5,7'}, {'CUDA_VISIBLE_DEVICES': '0'}, {})
    """
    return {VISIBLE: ",".join(visible[slot % len(visible) :: jobs])} if visible else {}
