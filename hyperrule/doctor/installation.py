"""The TensorFlow that is installed: whether it starts, which GPUs it sees, which of its CUDA packages are missing.

What can be seen of NVIDIA hardware, driver and container from Linux's own files, when nvidia-smi does not help.
"""

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict

from hyperrule.planning.machine.speed import installed_version

# This module as a script; -P: the working directory is no place to import from.
ASKING = (sys.executable, "-P", "-m", "hyperrule.doctor.installation")
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
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    try:
        asked = subprocess.run(ASKING, env=environment, capture_output=True, text=True, timeout=SECONDS)
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


ROOT = Path("/")
NVIDIA = "0x10de"  # vendor, in the PCI ID repository
DISPLAY = "0x03"  # class: display controllers, whose sub-classes are VGA and 3D


class Surroundings(BaseModel):
    """Number of NVIDIA GPUs on the PCI bus; version of the driver in the kernel, None if it is not loaded; whether
    its device files are here; whether this is a container; ID of the distribution ("ubuntu"), or ""."""

    model_config = ConfigDict(frozen=True)

    pci_gpus: int
    driver: str | None
    device_files: bool
    container: bool
    distribution: str


def look_around(root: Path = ROOT) -> Surroundings:
    devices = (root / "sys/bus/pci/devices").glob("*")
    release = re.search(r"""^ID=["']?(\w+)""", _text(root / "etc/os-release"), re.MULTILINE)
    driver = re.search(r"Kernel Module.*?(\d+(?:\.\d+)+)", _text(root / "proc/driver/nvidia/version"))
    return Surroundings(
        pci_gpus=sum(map(_is_nvidia_gpu, devices)),
        driver=driver[1] if driver else None,
        device_files=(root / "dev/nvidiactl").exists(),
        container=_is_container(root),
        distribution=release[1] if release else "",
    )


def _is_nvidia_gpu(device: Path) -> bool:
    return _text(device / "vendor").strip() == NVIDIA and _text(device / "class").startswith(DISPLAY)


def _is_container(root: Path) -> bool:
    """Docker and Podman leave a file; Kubernetes mounts its own."""
    marks = (".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io")
    return any((root / mark).exists() for mark in marks)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def tell_what_tensorflow_sees() -> None:
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    seen = {"gpus": [gpu.get("device_name", "unknown") for gpu in gpus], "cuda": build.get("cuda_version")}
    print(json.dumps(seen))


if __name__ == "__main__":
    tell_what_tensorflow_sees()
