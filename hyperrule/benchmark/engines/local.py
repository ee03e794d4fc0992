"""Pieces of a benchmark in processes of this machine, several at a time.

Each hangs on a line (see `launch.tether`): when this process dies, however it dies, they end, too.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from signal import Signals

from hyperrule.benchmark.engines.pieces import Order, Piece, signals_to, stopped_by
from hyperrule.planning.machine.machine import this_machine
from hyperrule.training.launch.hosts import Worker
from hyperrule.training.launch.process import WorkerProcess

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
VISIBLE = "CUDA_VISIBLE_DEVICES"
Events = SimpleQueue[tuple[int, int] | Signals]


def run_locally(folder: Path, orders: Sequence[Order], jobs: int, ended: Callable[[Piece, int], None]) -> None:
    """Do every piece in a process of its own, `jobs` at a time; `ended` hears each with its exit code.

    Raises Interrupted at SIGINT or SIGTERM, when all have stopped.
    """
    events: Events = SimpleQueue()
    left, free = deque(orders), list(reversed(range(jobs)))
    running: dict[int, tuple[Piece, WorkerProcess]] = {}
    received: Signals | None = None
    with signals_to(events.put):
        while running or (left and received is None):
            while left and free and received is None:
                slot, order = free.pop(), left.popleft()
                running[slot] = order.piece, _start(slot, folder, order, events)
            event = events.get()
            if isinstance(event, Signals):
                received = received or event
                for _, process in running.values():
                    process.send(event)
                continue
            slot, code = event
            piece, process = running.pop(slot)
            process.tell_reason()
            free.append(slot)
            if received is None:
                ended(piece, code)
    if received is not None:
        raise stopped_by(received)


def command(folder: Path, order: Order) -> list[str]:
    """The command line that carries out an order."""
    return [sys.executable, "-m", "hyperrule.benchmark.engines.work", str(folder), order.model_dump_json()]


def _start(slot: int, folder: Path, order: Order, events: Events) -> WorkerProcess:
    machine, environment = this_machine(), {}
    if order.jobs > 1:
        environment = threads(machine.cores // order.jobs) | gpus(slot, order.jobs, _visible(len(machine.gpus)))
    worker = Worker(slot, "this machine", (), environment)
    return WorkerProcess(worker, command(folder, order), lambda slot, code: events.put((slot, code)))


def _visible(count: int) -> list[str]:
    """GPUs by the names that the variable takes."""
    return os.environ[VISIBLE].split(",")[:count] if VISIBLE in os.environ else [str(index) for index in range(count)]


def threads(count: int) -> dict[str, str]:
    """Variables with which a process takes so many threads, one at least, unless the user has set them."""
    return {name: os.environ.get(name, str(max(1, count))) for name in THREADS}


def gpus(slot: int, jobs: int, visible: Sequence[str]) -> dict[str, str]:
    """The variable with which one of `jobs` processes sees its share of these GPUs, or one that several of them share.

    >>> gpus(1, 2, "4567"), gpus(2, 3, "01"), gpus(0, 2, "")
    ({'CUDA_VISIBLE_DEVICES': '5,7'}, {'CUDA_VISIBLE_DEVICES': '0'}, {})
    """
    return {VISIBLE: ",".join(visible[slot % len(visible) :: jobs])} if visible else {}
