"""What can be seen of NVIDIA hardware, driver and container from Linux's own files, when nvidia-smi does not help."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

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
