"""Runs one command, and ends it when this script's standard input is closed.

Standard input is a pipe from `hyperrule launch`, directly or through ssh. It closes when the other end dies in any way.
It carries first an order, a JSON object on one line with the keys argv, cwd, environment and announce, and then names
of signals to send to the command, one a line. The exit code is the command's, or 128 + signal if one killed it.

Standard library only, and run as a file: `python -P tether.py`.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import BinaryIO

STARTED = "hyperrule: worker started"  # printed to stderr when the command has started, if `announce` is set
STOP_SECONDS = 40  # from SIGTERM to SIGKILL; a checkpoint takes at most 30


def main() -> int:
    # Unbuffered: a thread that reads from a buffer would keep the interpreter from ending.
    line = open(0, "rb", buffering=0)  # noqa: SIM115
    order = json.loads(line.readline() or b"null")
    if order is None:  # closed before an order came
        return 128 + signal.SIGTERM
    try:
        process = _start(order)
    except OSError as error:
        print(f"{error.strerror}: {error.filename}", file=sys.stderr)
        return 2
    if order["announce"]:
        print(STARTED, file=sys.stderr, flush=True)

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    threading.Thread(target=_obey, args=(line, process), daemon=True).start()
    code = process.wait()
    _end_group(process.pid)
    return 128 - code if code < 0 else code


def _start(order: dict[str, object]) -> "subprocess.Popen[bytes]":
    """Start the command of an order. Raises OSError if its folder or program does not exist."""
    os.chdir(str(order["cwd"]))
    environment = order["environment"]
    assert isinstance(environment, dict)
    argv = order["argv"]
    assert isinstance(argv, list)
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )


def _die_with_parent() -> Callable[[], object] | None:
    """Return what the command runs first so that Linux kills it if this process is killed; None on other systems."""
    if sys.platform != "linux":
        return None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_parent_death_signal, signal.SIGKILL)


def _obey(line: BinaryIO, process: "subprocess.Popen[bytes]") -> None:
    """Pass on signals until standard input closes; then end the command, with SIGTERM first."""
    signalled = False
    for name in line:
        process.send_signal(signal.Signals[name.decode().strip()])
        signalled = True
    if not signalled:  # a second signal would end it without a checkpoint
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _end_group(leader: int) -> None:
    """Kill the child processes that a killed command may have left."""
    with suppress(OSError):  # there are none
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
