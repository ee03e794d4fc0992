"""Starts every worker, prints the workers' messages once, passes signals on, and lets no worker outlive the others.

    start -> events: a worker has ended, a signal has come, or time is up -> exit code of the first that failed

Each worker is tied to this process by a pipe (see `tether`). If this process dies in any way, the pipes close and the
workers end.
"""

import os
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType

from hyperrule.errors import Interrupted, RunError, UserError
from hyperrule.support.wording import printable
from hyperrule.training.launch.hosts import Worker
from hyperrule.training.launch.process import WorkerProcess, say

LOST_WORKER = 60.0  # seconds for the other workers to notice that one has ended, and to end by themselves
LOST_CAUSE = 5.0  # the same if the request cannot be met, which each worker finds out by itself
STOPPING = 45.0  # from a signal to SIGKILL; a checkpoint takes at most 30
KILLING = 5.0  # for SIGKILL to reach a worker; then its pipe is closed
CANNOT_BE_MET = 2
LINE_LOST = 255  # ssh's own exit code
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class WorkerExit:
    index: int
    code: int


Events = SimpleQueue["WorkerExit | signal.Signals"]


class Escalation:
    """A timetable of signals to the workers that are left. The first `begin` starts it; later calls do nothing."""

    def __init__(self) -> None:
        self._plan: deque[tuple[float, signal.Signals | None]] = deque()
        self._due: float | None = None

    def begin(self, *plan: tuple[float, signal.Signals | None]) -> None:
        if self._due is None:
            self._plan = deque([*plan, (KILLING, None)])
            self._due = time.monotonic() + plan[0][0]

    @property
    def seconds_left(self) -> float | None:
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def act(self, left: list[WorkerProcess]) -> None:
        """Do what is due next: send a signal, or close the pipes."""
        _, number = self._plan.popleft()
        if number == signal.SIGTERM:
            names = ", ".join(running.worker.name for running in left)
            say(f"hyperrule: {names} did not end without the others: SIGTERM")
        for running in left:
            running.cut() if number is None else running.send(number)
        self._due = time.monotonic() + self._plan[0][0] if self._plan else None


def supervise(workers: Sequence[Worker], command: Sequence[str], again: str) -> int:
    """Run `command` as every worker and wait for all. Return 0, or the exit code of the first worker that failed.

    Workers print themselves why they fail. Raises UserError if one cannot be started; RunError, with the exit code
    (128 + signal, or 1), if one was killed or the connection to it was lost; Interrupted if SIGINT or SIGTERM came.
    `again` is the command line that resumes, for messages.
    """
    events: Events = SimpleQueue()

    def ended(index: int, code: int) -> None:
        events.put(WorkerExit(index, code))

    with _signals_as(events):
        running: list[WorkerProcess] = []
        try:
            running += (WorkerProcess(worker, command, ended) for worker in workers)
            codes, received = _watch(running, events)
        except BaseException:
            for one in running:
                one.cut()
                one.wait()
            raise
    if not any(codes.values()):
        return 0
    if received is not None:
        raise Interrupted(f"stopped by {received.name} on every worker. Continue with: {again}", received)
    return _verdict(running, codes, again)


def _watch(running: list[WorkerProcess], events: Events) -> tuple[dict[int, int], signal.Signals | None]:
    """Wait until all have ended. Return exit codes by worker, in the order of their ends, and the first signal."""
    left = {one.worker.index: one for one in running}
    codes: dict[int, int] = {}
    received: signal.Signals | None = None
    escalation = Escalation()
    while left:
        try:
            event = events.get(timeout=escalation.seconds_left)
        except Empty:
            escalation.act(list(left.values()))
            continue
        if isinstance(event, signal.Signals):
            received = received or event
            for one in left.values():
                one.send(event)
            escalation.begin((STOPPING, signal.SIGKILL))
            continue
        ended = left.pop(event.index)
        codes[event.index] = event.code
        if event.code or event.index == 0:  # without the chief, the others have nothing to do
            lost_cause = event.code == CANNOT_BE_MET or not ended.started
            escalation.begin((LOST_CAUSE if lost_cause else LOST_WORKER, signal.SIGTERM), (STOPPING, signal.SIGKILL))
    return codes, received


def _verdict(running: list[WorkerProcess], codes: dict[int, int], again: str) -> int:
    """Return the exit code of the first that failed; print its reason if worker 0 has not printed the same."""
    index, code = next((index, code) for index, code in codes.items() if code)
    first = running[index]
    if not first.started:
        reason = printable((first.closing or ["no reason given"])[-1])
        raise UserError(
            f"{first.worker.name} could not be started: {reason} (exit code {code}). It needs a login without a "
            f"password, the folder {os.getcwd()}, and the same Python as here, {sys.executable}. "
            f"Try: {shlex.join([*first.worker.connect, sys.executable, '--version'])}"
        )
    if code == LINE_LOST and first.worker.connect:
        raise RunError(f"the connection to {first.worker.name} is lost. Continue with: {again}")
    if code > 128 and code not in STOPPED:
        error = RunError(f"{first.worker.name} was killed by {_signal_name(code)}. Continue with: {again}")
        error.exit_code = code
        raise error
    if code == 1 or codes[0] != code:  # user errors and signals are the same for all, and worker 0 has printed them
        first.tell_reason()
    return code


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return f"signal {code - 128}"


@contextmanager
def _signals_as(events: Events) -> Iterator[None]:
    """Within the block, turn SIGINT and SIGTERM into events."""

    def note(number: int, frame: FrameType | None) -> None:
        events.put(signal.Signals(number))

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
