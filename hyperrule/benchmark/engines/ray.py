"""Executes the tasks of a benchmark on a Ray cluster, each as one Ray task.

Ray decides where and when a task runs, and repeats tasks of a node that died. The machine that starts the tasks and all
that execute them see the bench folder, the data and the cache under the same paths.

`check_cluster` finds out within seconds whether there is a cluster at an address; `ray.init` by itself tries for
minutes. `carry_out` is the Ray task: it runs a process that ends when the task does (see `launch.tether`). It needs the
standard library only.
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
from hyperrule.benchmark.engines.tasks import Assignment, Task, signals_to, stopped_by
from hyperrule.errors import UserError
from hyperrule.planning.machine.machine import this_machine
from hyperrule.support.progress import silent_native_stderr
from hyperrule.support.wording import printable
from hyperrule.training.launch import tether
from hyperrule.training.launch.hosts import SENT
from hyperrule.training.launch.process import say

OBJECT_STORE = 100_000_000  # bytes, about the least that Ray accepts: only exit codes go through it
RETRIES = 3  # for a task whose node or worker died; limited, since the task itself may be the cause
# Seconds after which the lock on a cell of a dead node is free: a process there takes up to 40 to end, and an NFS
# server 90 to release the locks of a client that is gone (the Linux default, nfsv4leasetime).
PATIENCE = 120.0
# Seconds in which a cancelled task and its process end. Ray may miss a task that is about to start, so it is cancelled
# again after that.
HEEDED = 45.0
ACCEPTS = 5.0  # seconds for a connection
ANSWERS = 45.0  # seconds for a driver to start and connect; 4 on an idle machine
DRIVER = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='critical')"
LOOKED_AT = 0.2  # seconds between two looks at the process: Ray cancels between two statements
LAST_WORDS = 20  # lines of stderr that are returned

Outcome = Future[tuple[int, list[str]]]
Events = SimpleQueue[tuple[Task, Outcome] | Signals]


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Within the block, connect this process to the Ray cluster at `address`, "auto" or "HOST:PORT".

    Without an address, a cluster is started on this machine. An existing connection is used unchanged. Raises UserError
    if Ray is not installed, or if the cluster cannot be reached.
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


def run_on_ray(folder: Path, assignments: Sequence[Assignment], jobs: int, ended: Callable[[Task, int], None]) -> None:
    """Execute every task in its own process, and call `ended` with each task and its exit code.

    The smallest machine of the cluster runs `jobs` processes at a time, larger ones run more.

    Raises Interrupted at SIGINT or SIGTERM, when all have stopped.
    """
    ray = _ray()
    cpus, gpus = share([node["Resources"] for node in ray.nodes() if node["Alive"]], jobs)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(carry_out)
    environment = _environment(math.floor(cpus))
    events: Events = SimpleQueue()
    left, received = len(assignments), None
    with signals_to(events.put):
        ray_tasks = []
        for assignment in assignments:
            _, *arguments = command(folder, assignment.model_copy(update={"patience": PATIENCE}))
            ray_task = remote.options(name=str(assignment.task)).remote(arguments, os.getcwd(), environment)
            ray_task.future().add_done_callback(partial(_tell, events, assignment.task))
            ray_tasks.append(ray_task)
        while left:
            event = _next(events, received)
            if isinstance(event, Signals):
                received = received or event
                for ray_task in ray_tasks:
                    ray.cancel(ray_task)
                continue
            left -= 1
            if received is None:
                ended(event[0], _exit_code(*event))
    if received is not None:
        raise stopped_by(received)


def _next(events: Events, received: Signals | None) -> tuple[Task, Outcome] | Signals:
    """Return the next event; after HEEDED seconds without one, the received signal again."""
    try:
        return events.get(timeout=None if received is None else HEEDED)
    except Empty:
        assert received is not None
        return received


def share(machines: Sequence[Mapping[str, float]], jobs: int) -> tuple[float, float]:
    """Return the CPUs and GPUs of a task, such that `jobs` tasks fill the smallest machine.

    Only machines with GPUs count if there are any. Raises UserError if no machine has CPUs.

    >>> share([{"CPU": 8}, {"CPU": 3}, {"memory": 1e9}], 2), share([{"CPU": 1}], 3)
    ((1.5, 0.0), (0.3333, 0.0))
    >>> share([{"CPU": 32, "GPU": 4}, {"CPU": 4}], 2), share([{"CPU": 32, "GPU": 4}], 6)
    ((16.0, 2.0), (5.3333, 0.5))
    """
    usable = [machine for machine in machines if machine.get("CPU")]
    usable = [machine for machine in usable if machine.get("GPU")] or usable
    if not usable:
        raise UserError("the Ray cluster has no CPUs for tasks now. `ray status` shows its resources.")
    cpus, gpus = (min(machine.get(kind, 0.0) for machine in usable) for kind in ("CPU", "GPU"))
    whole_or_part = gpus // jobs or (1 / math.ceil(jobs / gpus) if gpus else 0.0)
    return _rounded_down(cpus / jobs), _rounded_down(whole_or_part)


def _rounded_down(amount: float) -> float:
    """Round down to the precision of Ray's resources."""
    return math.floor(amount * 10_000) / 10_000


def _environment(cores: int) -> dict[str, str]:
    """Return the environment variables for a task; Ray sets which GPUs it sees."""
    sent = {name: value for name, value in os.environ.items() if SENT.fullmatch(name)}
    return {name: value for name, value in sent.items() if name != "CUDA_VISIBLE_DEVICES"} | threads(cores)


def _tell(events: Events, task: Task, outcome: Outcome) -> None:
    events.put((task, outcome))


def _exit_code(task: Task, outcome: Outcome) -> int:
    """Return the exit code of the process, or 1 if Ray gave up the task; print why it failed."""
    error = outcome.exception()
    code, words = outcome.result() if error is None else (1, [_first_line(error)])
    for line in words if code else ():
        say(printable(f"[{task}] {line}"))
    return code


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", error)  # the exception raised on the node, without its traceback
    return f"Ray: {type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"


def _ray() -> ModuleType:
    # No usage statistics are sent.
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
    signal(SIGTERM, own)  # ray.init replaced it


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
        "This machine must be one of the cluster's; `ray status` here shows its state."
    )


def carry_out(arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run Python with `arguments` in `folder`, with `environment` added to the machine's own.

    Return the exit code, 128 + signal if one killed it, and the last lines of its stderr. When it has ended, all of its
    stderr is written to that of this process.
    """
    if getsignal(SIGINT) is SIG_IGN:  # inherited from a background job of a shell: Ray could not cancel the task
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
        with process.stdin as line:  # closed when this block ends, by an exception too, or when this process ends
            line.write(f"{json.dumps(order)}\n".encode())
            line.flush()
            while process.poll() is None:
                time.sleep(LOOKED_AT)
        code = process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace")
    sys.stderr.write(words)
    return 128 - code if code < 0 else code, words.splitlines()[-LAST_WORDS:]
