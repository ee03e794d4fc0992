"""Runs one command at the end of a line that is its standard input, and ends it when the line is cut.

The line is a pipe from `hyperrule launch`, or one through ssh; either is cut when the other end dies, however it dies.
First comes an order, a JSON object of one line with the keys argv, cwd and environment; then names of signals, one a
line, that are sent to the command. The exit code is that of the command, 128 + signal if one killed it.

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

STARTED = "hyperrule: worker started"  # the first line of a started command's stderr, where `announce` asks for it
STOP_SECONDS = 40  # from SIGTERM to SIGKILL; a checkpoint takes at most 30


def main() -> int:
    # Unbuffered: what is read in a thread would else keep the interpreter from ending.
    line = open(0, "rb", buffering=0)  # noqa: SIM115
    order = json.loads(line.readline() or b"null")
    if order is None:  # cut before it began
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
    """Raises OSError if the folder or the program is not there."""
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
    """What Linux offers against orphans: SIGKILL to the command when this process is killed by one."""
    if sys.platform != "linux":
        return None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_parent_death_signal, signal.SIGKILL)


def _obey(line: BinaryIO, process: "subprocess.Popen[bytes]") -> None:
    """Pass on signals until the line is cut; then end the command, gently first."""
    told = False
    for name in line:
        process.send_signal(signal.Signals[name.decode().strip()])
        told = True
    if not told:  # a second signal would end it without a checkpoint
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _end_group(leader: int) -> None:
    """A command that was killed may have left processes of its own."""
    with suppress(OSError):  # it has not
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
