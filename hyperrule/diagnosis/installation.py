"""The TensorFlow that is installed: whether it starts, which GPUs it sees, which of its CUDA packages are missing."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict

from hyperrule.planning.machine.speed import installed_version

PROGRAM = Path(__file__).with_name("ask_tensorflow.py")
SECONDS = 180.0  # from a cold disk, or on a busy machine, an import takes a minute or two
CUDA_EXTRA = {"extra": "and-cuda"}
COMPLAINTS = ("Could not load dynamic library", "Could not find cuda", "dlopen", "failed call to cuInit", "CUDA error")


class TensorFlow(BaseModel):
    """What TensorFlow says in a process of its own: names of the GPUs that it sees, the CUDA version that it is
    built for (None: it is built without), and what it complains of. `error` says why it does not start.
    """

    model_config = ConfigDict(frozen=True)

    gpus: tuple[str, ...] = ()
    cuda: str | None = None
    complaints: tuple[str, ...] = ()
    error: str | None = None


def ask_tensorflow() -> TensorFlow:
    """Import it, in some seconds; an import that crashes or hangs harms nobody."""
    # -P: the script's folder is no place to import from.
    command = [sys.executable, "-P", str(PROGRAM)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    try:
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return TensorFlow(error=f"its import takes more than {SECONDS:g} s")
    if asked.returncode != 0:
        return TensorFlow(error=_why(asked.returncode, asked.stderr))
    complaints = [line for line in asked.stderr.splitlines() if any(part in line for part in COMPLAINTS)]
    seen = json.loads(asked.stdout.splitlines()[-1])
    return TensorFlow(**seen, complaints=tuple(dict.fromkeys(map(_message, complaints))))


def missing_cuda_packages() -> tuple[str, ...]:
    """Packages of CUDA that this TensorFlow asks for: names of those that are not installed, and those of which it
    takes other versions, with both."""
    try:
        wanted = [Requirement(line) for line in requires("tensorflow") or ()]
    except PackageNotFoundError:
        return ()
    of_cuda = [one for one in wanted if one.marker and one.marker.evaluate(CUDA_EXTRA) and not one.marker.evaluate()]
    return tuple(lack for one in of_cuda if (lack := _lack(one)) is not None)


def _lack(requirement: Requirement) -> str | None:
    version = installed_version(requirement.name)
    if version is None:
        return requirement.name
    fits = requirement.specifier.contains(version, prereleases=True)
    return None if fits else f"{requirement.name} {version}, which is not {requirement.specifier}"


def _why(code: int, said: str) -> str:
    """The last line of a traceback, or what killed the process."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": this CPU lacks instructions (AVX) that TensorFlow needs" if name == "SIGILL" else ""
        return f"its import is killed by {name}{hint}"
    lines = said.strip().splitlines() or [f"exit code {code}"]
    return lines[-1].strip()


def _message(line: str) -> str:
    """A line of TensorFlow's log without time, place and severity."""
    return line.rpartition("] ")[2].strip()
