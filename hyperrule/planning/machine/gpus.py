"""Lists NVIDIA GPUs with nvidia-smi, and picks those that this process may use; no TensorFlow."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from hyperrule.errors import RecipeError

NVIDIA_SMI_SECONDS = 10.0  # without persistence mode, GPUs take seconds to start
FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version")


class GpusUnknown(Exception):
    """nvidia-smi is missing, fails or does not answer. The message is a clause that says which."""


class NoNvidiaSmi(GpusUnknown):
    pass


class Gpu(BaseModel):
    """One NVIDIA GPU. Memory is in bytes; `free_memory` is None if nvidia-smi does not report it.

    `index` is its number in --devices and in TensorFlow: its place among the GPUs that CUDA_VISIBLE_DEVICES shows.
    """

    model_config = ConfigDict(frozen=True)

    index: int = 0
    name: str
    memory: int
    free_memory: int | None = None
    compute_capability: float

    @property
    def usable_memory(self) -> int:
        """Bytes that other processes leave free."""
        return self.memory if self.free_memory is None else self.free_memory


class Installed(BaseModel):
    """A GPU of the machine, visible to this process or not; its `index` is nvidia-smi's."""

    model_config = ConfigDict(frozen=True)

    gpu: Gpu
    uuid: str
    driver: str


def installed_gpus() -> tuple[Installed, ...]:
    """Return all GPUs that nvidia-smi lists, in its order, that of the PCI bus. Raises GpusUnknown."""
    rows = [[field.strip() for field in line.split(",")] for line in _nvidia_smi().splitlines() if line.strip()]
    try:
        return tuple(_installed(*row) for row in rows)
    except (TypeError, ValueError):
        raise GpusUnknown(f"nvidia-smi gave output of unknown form, {','.join(rows[0])[:80]!r}") from None


def visible_gpus(installed: Sequence[Installed], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES shows, numbered in its order.

    As in CUDA, it lists indices or beginnings of UUIDs, and ends at the first that names no GPU (CUDA Programming
    Guide, "CUDA Environment Variables").
    """
    names = environment.get("CUDA_VISIBLE_DEVICES")
    shown: list[Gpu] = []
    for name in map(str, range(len(installed))) if names is None else names.split(","):
        found = [one.gpu for one in installed if _is_called(one, name.strip())]
        if len(found) != 1 or found[0] in shown:
            break
        shown += found
    return tuple(gpu.model_copy(update={"index": index}) for index, gpu in enumerate(shown))


def chosen_gpus(devices: str, environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that `devices` selects: "all" for every one, "cpu" or "tpu" for none, "0,1" for those two.

    Raises RecipeError if `devices` is none of these, or names a GPU that does not exist.
    """
    if devices in ("cpu", "tpu"):
        return ()
    if devices == "all":
        try:
            return visible_gpus(installed_gpus(), environment)
        except GpusUnknown:
            return ()
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", devices):
        raise RecipeError(f"devices must be all, cpu, tpu, or numbers of GPUs such as 0,1. Received: {devices!r}")
    numbers = [int(number) for number in devices.split(",")]
    if len(set(numbers)) < len(numbers):
        raise RecipeError(f"devices must name each GPU once. Received: {devices!r}")
    return _numbered(numbers, devices, environment)


def _numbered(numbers: Sequence[int], devices: str, environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    try:
        gpus = visible_gpus(installed_gpus(), environment)
    except GpusUnknown as error:
        raise RecipeError(
            f"devices {devices} asks for GPUs, but {error}. Use --devices cpu; 'hyperrule doctor' says what is missing."
        ) from None
    if missing := sorted(set(numbers) - {gpu.index for gpu in gpus}):
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        counted = "" if visible is None else f", counted within CUDA_VISIBLE_DEVICES={visible}"
        existing = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"
        raise RecipeError(
            f"devices {devices} asks for GPU {missing[0]}, which does not exist. GPUs here: {existing}{counted}. "
            f"Use --devices {'all' if gpus else 'cpu'}; 'hyperrule doctor' shows them."
        )
    return tuple(gpu for gpu in gpus if gpu.index in numbers)


def _nvidia_smi() -> str:
    if (program := shutil.which("nvidia-smi")) is None:
        raise NoNvidiaSmi("nvidia-smi is not installed")
    query = [program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    with tempfile.TemporaryFile("w+") as answer:
        # A hanging driver makes nvidia-smi unkillable, so this uses no pipe and does not wait after the kill.
        try:
            process = subprocess.Popen(query, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.STDOUT)
            code = process.wait(NVIDIA_SMI_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise GpusUnknown(f"nvidia-smi does not answer within {NVIDIA_SMI_SECONDS:g} s") from None
        except OSError as error:
            raise GpusUnknown(f"nvidia-smi cannot be started: {error.strerror}") from None
        answer.seek(0)
        output = answer.read()
    if code != 0:
        lines = output.strip().splitlines() or [f"exit code {code}"]
        raise GpusUnknown(f"nvidia-smi fails: {lines[0].strip()[:200].rstrip('.')}")
    return output


def _installed(index: str, uuid: str, name: str, memory: str, free: str, capability: str, driver: str) -> Installed:
    gpu = Gpu(
        index=int(index),
        name=name,
        memory=int(memory) * 2**20,
        free_memory=int(free) * 2**20 if free.isdecimal() else None,  # "[N/A]"
        compute_capability=float(capability),
    )
    return Installed(gpu=gpu, uuid=uuid, driver=driver)


def _is_called(installed: Installed, name: str) -> bool:
    by_uuid = name.startswith("GPU-") and installed.uuid.startswith(name)
    return by_uuid or (name.isdecimal() and int(name) == installed.gpu.index)
