"""Pieces of a benchmark as tasks of a Ray cluster, which decides where and when, and does those of a dead node again.

The machine that starts them and all that do them see the bench folder, the data and the cache under the same paths.

Whether there is a Ray cluster at an address, told soon: `ray.init` by itself tries for minutes.

A piece of a benchmark on a machine of a cluster: a process that ends when the one that asked for it does, however
that ends. Standard library only, but for the tether (see `launch.tether`).
"""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from signal import SIG_IGN, SIGINT, SIGTERM, Signals, default_int_handler, getsignal, signal
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile
from types import ModuleType
from typing import Any

from hyperrule.benchmark.engines.local import command, threads
from hyperrule.benchmark.engines.pieces import Order, Piece, signals_to, stopped_by
from hyperrule.errors import UserError
from hyperrule.planning.machine.machine import this_machine
from hyperrule.support.progress import silent_native_stderr
from hyperrule.support.wording import printable
from hyperrule.training.launch import tether
from hyperrule.training.launch.hosts import SENT
from hyperrule.training.launch.process import say

OBJECT_STORE = 100_000_000  # bytes, about the least that Ray takes: exit codes are all that goes through it
RETRIES = 3  # of a piece whose node or worker died: it may be the piece that kills them
# Seconds after which nobody is at work on a cell whose node has died: a process there takes up to 40 to end, and a
# server of NFS 90 to give back the locks of a client that it does not hear from (the Linux default, nfsv4leasetime).
PATIENCE = 120.0
# Seconds in which a task that is cancelled ends, its process too. Ray may forget one that is just about to begin.
HEEDED = 45.0

Outcome = Future[tuple[int, list[str]]]
Events = SimpleQueue[tuple[Piece, Outcome] | Signals]


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Within the block this process is a driver of the Ray cluster at an address, "auto" or "HOST:PORT", or of one that
    it starts on this machine; a connection that there is already is used as it is.

    Raises UserError if Ray is not installed, or the cluster cannot be reached.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    if address is not None:
        check_cluster(address)
    _connect(ray, address)
    try:
        yield
    finally:
        with silent_native_stderr():
            ray.shutdown()


def run_on_ray(folder: Path, orders: Sequence[Order], jobs: int, ended: Callable[[Piece, int], None]) -> None:
    """Do every piece in a process of its own, `jobs` at a time on a machine of the cluster, more on one that is larger
    than the smallest; `ended` hears each with its exit code.

    Raises Interrupted at SIGINT or SIGTERM, when all have stopped.
    """
    ray = _ray()
    cpus, gpus = share([node["Resources"] for node in ray.nodes() if node["Alive"]], jobs)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(carry_out)
    environment = _environment(math.floor(cpus))
    events: Events = SimpleQueue()
    left, received = len(orders), None
    with signals_to(events.put):
        tasks = []
        for order in orders:
            _, *arguments = command(folder, order.model_copy(update={"patience": PATIENCE}))
            tasks.append(task.options(name=str(order.piece)).remote(arguments, os.getcwd(), environment))
            tasks[-1].future().add_done_callback(partial(_tell, events, order.piece))
        while left:
            event = _next(events, received)
            if isinstance(event, Signals):
                received = received or event
                for one in tasks:
                    ray.cancel(one)
                continue
            left -= 1
            if received is None:
                ended(event[0], _exit_code(*event))
    if received is not None:
        raise stopped_by(received)


def _next(events: Events, received: Signals | None) -> tuple[Piece, Outcome] | Signals:
    """The next event; the signal that was received once more, if nothing comes of it."""
    try:
        return events.get(timeout=None if received is None else HEEDED)
    except Empty:
        assert received is not None
        return received


def share(machines: Sequence[Mapping[str, float]], jobs: int) -> tuple[float, float]:
    """CPUs and GPUs of a task of which `jobs` fill the smallest machine; only those with GPUs count if there are any.

    Raises UserError if there is nothing to work with.

    >>> share([{"CPU": 8}, {"CPU": 3}, {"memory": 1e9}], 2), share([{"CPU": 1}], 3)
    ((1.5, 0.0), (0.3333, 0.0))
    >>> share([{"CPU": 32, "GPU": 4}, {"CPU": 4}], 2), share([{"CPU": 32, "GPU": 4}], 6)
    ((16.0, 2.0), (5.3333, 0.5))
    """
    usable = [machine for machine in machines if machine.get("CPU")]
    usable = [machine for machine in usable if machine.get("GPU")] or usable
    if not usable:
        raise UserError("the Ray cluster has no CPUs for tasks now. `ray status` shows what it has.")
    cpus, gpus = (min(machine.get(kind, 0.0) for machine in usable) for kind in ("CPU", "GPU"))
    whole_or_part = gpus // jobs or (1 / math.ceil(jobs / gpus) if gpus else 0.0)
    return _rounded_down(cpus / jobs), _rounded_down(whole_or_part)


def _rounded_down(amount: float) -> float:
    """To what Ray tells apart."""
    return math.floor(amount * 10_000) / 10_000


def _environment(cores: int) -> dict[str, str]:
    """What a node is told of our environment; which GPUs a task sees, Ray says."""
    sent = {name: value for name, value in os.environ.items() if SENT.fullmatch(name)}
    return {name: value for name, value in sent.items() if name != "CUDA_VISIBLE_DEVICES"} | threads(cores)


def _tell(events: Events, piece: Piece, outcome: Outcome) -> None:
    events.put((piece, outcome))


def _exit_code(piece: Piece, outcome: Outcome) -> int:
    """That of the process, or 1 if Ray has given it up; why it failed is told."""
    error = outcome.exception()
    code, words = outcome.result() if error is None else (1, [_first_line(error)])
    for line in words if code else ():
        say(printable(f"[{piece}] {line}"))
    return code


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", error)  # of what was raised on the node, without its traceback
    return f"Ray: {type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"


def _ray() -> ModuleType:
    # Nobody is told that Ray is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs ray. Install: pip install 'hyperrule[ray]'") from None
    module: ModuleType = ray
    return module


def _connect(ray: ModuleType, address: str | None) -> None:
    asked: dict[str, Any] = {"address": address}
    if address is None:
        cores = this_machine().cores
        asked = {
            "address": "local",
            "num_cpus": cores,
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
        }
    own = getsignal(SIGTERM)
    try:
        with silent_native_stderr():
            ray.init(log_to_driver=False, logging_level="error", **asked)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray does not start: {printable(' '.join(str(error).split()))}") from None
    signal(SIGTERM, own)  # Ray has put its own there


ACCEPTS = 5.0  # seconds for a connection
ANSWERS = 45.0  # seconds for a driver to start and be welcome; 4 on an idle machine
DRIVER = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='critical')"


def check_cluster(address: str) -> None:
    """Raises UserError unless a driver on this machine can connect to the cluster at "auto" or "HOST:PORT"."""
    if address != "auto":
        _check_listener(address)
    try:
        driver = subprocess.run(
            [sys.executable, "-c", DRIVER, address], stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWERS
        )
    except subprocess.TimeoutExpired:
        raise _none_at(address, f"no answer in {ANSWERS:.0f} s") from None
    if driver.returncode:
        said = driver.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {driver.returncode}"]
        raise _none_at(address, said[-1])


def _check_listener(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--address takes auto or HOST:PORT, such as 10.0.0.1:6379. Received: {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ACCEPTS).close()
    except (OSError, UnicodeError) as error:
        raise _none_at(address, getattr(error, "strerror", None) or str(error)) from None


def _none_at(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster at --address {printable(address)}: {printable(reason)}. "
        "`ray status` on this machine, which has to be one of the cluster's, shows what it knows of it."
    )


LOOKED_AT = 0.2  # seconds between two looks at the process: Ray cancels between two statements
LAST_WORDS = 20  # lines


def carry_out(arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run Python with these arguments in the folder, with these variables besides the machine's own.

    Returns the exit code, 128 + signal if one killed it, and the last lines of its stderr, all of which goes to that
    of this process when it has ended.
    """
    if getsignal(SIGINT) is SIG_IGN:  # as for what a shell starts in the background: Ray could not cancel the task
        signal(SIGINT, default_int_handler)
    order = {
        "argv": [sys.executable, *arguments],
        "cwd": folder,
        "environment": dict(environment),
        "announce": False,
    }
    with (
        TemporaryFile() as said,
        Popen(
            [sys.executable, "-P", tether.__file__], stdin=PIPE, stdout=DEVNULL, stderr=said, start_new_session=True
        ) as process,
    ):
        assert process.stdin is not None
        with process.stdin as line:  # cut when this block ends, also by an exception, or this process
            line.write(f"{json.dumps(order)}\n".encode())
            line.flush()
            while process.poll() is None:
                time.sleep(LOOKED_AT)
        code = process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace")
    sys.stderr.write(words)
    return 128 - code if code < 0 else code, words.splitlines()[-LAST_WORDS:]
