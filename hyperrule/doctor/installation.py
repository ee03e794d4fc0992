"""Examines the installation: TensorFlow, its CUDA packages, and NVIDIA hardware as Linux's own files show it.

Run as a script, this module imports TensorFlow and prints what it sees as JSON. The files of Linux help where
nvidia-smi does not.
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

# This module as a script; -P keeps the working directory off the import path.
ASKING = (sys.executable, "-P", "-m", "hyperrule.doctor.installation")
SECONDS = 180.0  # importing TensorFlow from a cold disk, or on a busy machine, takes a minute or two
CUDA_EXTRA = {"extra": "and-cuda"}
COMPLAINTS = ("Could not load dynamic library", "Could not find cuda", "dlopen", "failed call to cuInit", "CUDA error")

ROOT = Path("/")
NVIDIA = "0x10de"  # vendor, in the PCI ID repository
DISPLAY = "0x03"  # class: display controllers, whose sub-classes are VGA and 3D


class TensorFlow(BaseModel):
    """What TensorFlow reports in a fresh process: names of the GPUs that it sees, and its complaints about CUDA.

    `cuda` is the version that it is built for, None for a build without CUDA. `error` says why it does not start.
    """

    model_config = ConfigDict(frozen=True)

    gpus: tuple[str, ...] = ()
    cuda: str | None = None
    complaints: tuple[str, ...] = ()
    error: str | None = None


def ask_tensorflow() -> TensorFlow:
    """Import TensorFlow in a fresh process, where a crash or a hang does no harm. Takes some seconds."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    try:
        process = subprocess.run(ASKING, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return TensorFlow(error=f"its import takes more than {SECONDS:g} s")
    if process.returncode != 0:
        return TensorFlow(error=_why(process.returncode, process.stderr))
    complaints = [line for line in process.stderr.splitlines() if any(part in line for part in COMPLAINTS)]
    seen = json.loads(process.stdout.splitlines()[-1])
    return TensorFlow(**seen, complaints=tuple(dict.fromkeys(map(_message, complaints))))


def missing_cuda_packages() -> tuple[str, ...]:
    """Return the CUDA packages that the installed TensorFlow requires but that are missing.

    A package of the wrong version counts as missing; its text names both versions.
    """
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


def _why(code: int, stderr: str) -> str:
    """Return the last line of a traceback, or the signal that killed the process."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": this CPU lacks instructions (AVX) that TensorFlow needs" if name == "SIGILL" else ""
        return f"its import was killed by {name}{hint}"
    lines = stderr.strip().splitlines() or [f"exit code {code}"]
    return lines[-1].strip()


def _message(line: str) -> str:
    """Return a line of TensorFlow's log without time, location and severity."""
    return line.rpartition("] ")[2].strip()


class Surroundings(BaseModel):
    """What Linux shows of NVIDIA hardware: GPUs on the PCI bus, the driver's version, its device files.

    `driver` is None if it is not loaded in the kernel. `distribution` is its ID, such as "ubuntu", or "".
    """

    model_config = ConfigDict(frozen=True)

    pci_gpus: int
    driver: str | None
    device_files: bool
    container: bool
    distribution: str


def look_around(root: Path = ROOT) -> Surroundings:
    """Read the surroundings from the files below `root`."""
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
    """Whether this is a container: Docker and Podman create a file, Kubernetes mounts a folder."""
    marks = (".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io")
    return any((root / mark).exists() for mark in marks)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def tell_what_tensorflow_sees() -> None:
    """Print GPUs and CUDA version as one line of JSON."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    seen = {"gpus": [gpu.get("device_name", "unknown") for gpu in gpus], "cuda": build.get("cuda_version")}
    print(json.dumps(seen))


if __name__ == "__main__":
    tell_what_tensorflow_sees()
