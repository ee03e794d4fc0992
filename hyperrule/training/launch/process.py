"""Runs one worker: the process here that is or leads to it, its output, and its end."""

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals

from hyperrule.errors import UserError
from hyperrule.support.wording import printable
from hyperrule.training.launch import tether
from hyperrule.training.launch.hosts import Worker

LAST_WORDS = 1.0  # seconds to read the output of a process after its end
CLOSING = "hyperrule: "  # the beginning of the one line with which a command says why it failed
CLEAR_ROW = "\r\x1b[K"  # clears worker 0's live display, which is then drawn again below the line


class WorkerProcess:
    """A worker's process, or the ssh that leads to it, with threads that read its stderr and wait for its end.

    Worker 0 inherits stdout and, on this machine, stderr, so that its live display sees the terminal. When the process
    ends, a thread calls `ended` with the worker's index and its exit code, 128 + signal if it was killed.
    Raises UserError if the program cannot be started.
    """

    def __init__(self, worker: Worker, command: Sequence[str], ended: Callable[[int, int], None]) -> None:
        self.worker = worker
        self.started = not worker.connect  # on this machine, Popen raises if it does not start
        self.closing: list[str] = []  # lines that say why it failed: its own, or those of ssh before it has started
        self._prefix = f"[worker {worker.index}] " if worker.index else ""
        try:
            self._process = subprocess.Popen(
                [*worker.connect, *_tether(bool(worker.connect))],
                stdin=subprocess.PIPE,
                stdout=None if worker.index == 0 else subprocess.DEVNULL,
                stderr=None if worker.index == 0 and not worker.connect else subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches only the launcher, which passes it on
            )
        except OSError as error:
            raise UserError(f"{worker.name} could not be started: {error.strerror}: {error.filename}") from None
        order = {
            "argv": list(command),
            "cwd": os.getcwd(),
            "environment": dict(worker.environment),
            "announce": bool(worker.connect),
        }
        self._write(json.dumps(order))
        threading.Thread(target=self._follow, args=(ended,), daemon=True).start()

    def send(self, number: Signals) -> None:
        self._write(number.name)

    def cut(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.wait()

    def tell_reason(self) -> None:
        for line in self.closing:
            self._tell(line)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except OSError:  # the process has ended already
            pass

    def _follow(self, ended: Callable[[int, int], None]) -> None:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        code = self._process.wait()
        reader.join(LAST_WORDS)  # with a limit: an ssh that stays to share its connection keeps stderr open
        ended(self.worker.index, 128 - code if code < 0 else code)

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self._hear(line.decode(errors="surrogateescape").rstrip("\r\n"))

    def _hear(self, line: str) -> None:
        if not self.started:
            if line == tether.STARTED:
                self.started, self.closing = True, []
            else:
                self.closing.append(line)
        elif self._prefix and line.startswith(CLOSING):
            self.closing.append(line)
        else:
            self._tell(line)

    def _tell(self, line: str) -> None:
        say(f"{self._prefix}{printable(line.expandtabs())}")


def say(line: str) -> None:
    sys.stderr.write(f"{CLEAR_ROW if sys.stderr.isatty() else ''}{line}\n")
    sys.stderr.flush()


def _tether(through_a_shell: bool) -> list[str]:
    """Return the command line of a tether: its arguments, or one argument that a shell on another host splits."""
    arguments = [sys.executable, "-P", str(Path(tether.__file__).absolute())]
    return [f"exec {shlex.join(arguments)}"] if through_a_shell else arguments
