"""Finds the facts about this machine that a plan needs, without TensorFlow.

Of the CPU's instruction sets, it lists those on which the choice of precision depends.
"""

import os
import platform
import re
import subprocess
import time
from functools import cache
from pathlib import Path

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from hyperrule.planning.machine.gpus import Gpu, chosen_gpus
from hyperrule.planning.machine.speed import Speed, stored_speed
from hyperrule.support.limits import memory_limit, usable_cores

CPUINFO = Path("/proc/cpuinfo")
MACOS = {"hw.optional.avx2_0": "avx2", "hw.optional.avx512f": "avx512f", "hw.optional.arm.FEAT_BF16": "bf16"}

# By their names in Linux: x86-64, then ARM.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "sve", "bf16")
FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # R50x1, 128 px, batch 16, on Zen 4: 18.4 against 13.1 images/s


class Machine(BaseModel):
    """What this process may use: cores, memory in bytes, GPUs; and the rate of the CPU's float32 matrix product.

    `available_memory` is what other processes and a container's limit leave. `cpu_bfloat16` says that the CPU is known
    to be faster in bfloat16. `speed` holds the measurements on its device, None if there are none.
    """

    model_config = ConfigDict(frozen=True)

    cores: int
    memory: int
    available_memory: int
    gpus: tuple[Gpu, ...]
    cpu: str = "unknown"
    instruction_sets: tuple[str, ...] = ()
    cpu_bfloat16: bool
    gigaflops: float
    speed: Speed | None = None

    @property
    def weakest_gpu(self) -> Gpu:
        """The GPU that limits what all can do: the smallest of the oldest. Needs at least one GPU."""
        return min(self.gpus, key=lambda gpu: (gpu.compute_capability, gpu.memory))

    @property
    def device(self) -> str:
        """A description of the device that a measured speed belongs to: the model of GPU, or the CPU."""
        if self.gpus:
            return f"{self.weakest_gpu.name}, compute capability {self.weakest_gpu.compute_capability}"
        return f"{self.cpu}, {self.cores} cores, {' '.join(self.instruction_sets)}"

    @property
    def devices(self) -> tuple[str, ...]:
        """Descriptions of all devices. A run that resumes on equal ones splits its batches alike."""
        return tuple(f"{gpu.index} {gpu.name} {gpu.memory}" for gpu in self.gpus) or (self.device,)


@cache
def this_machine(devices: str = "all") -> Machine:
    """Return the machine with the GPUs that `devices` selects.

    "all" selects those that CUDA_VISIBLE_DEVICES shows, "cpu" or "tpu" none, "0,1" those two, numbered in the order of
    CUDA_VISIBLE_DEVICES. Raises RecipeError if `devices` is none of these, or names a GPU that does not exist.
    """
    memory, limit = psutil.virtual_memory(), memory_limit()
    found = instruction_sets()
    machine = Machine(
        cores=usable_cores(),
        memory=memory.total,
        available_memory=memory.available if limit is None else min(memory.available, limit.available),
        gpus=chosen_gpus(devices, os.environ),
        cpu=cpu_name(),
        instruction_sets=found,
        cpu_bfloat16=bool(set(found) & set(FAST_BFLOAT16)),
        gigaflops=_matrix_product_gigaflops(),
    )
    return machine.model_copy(update={"speed": stored_speed(machine.device)})


def _matrix_product_gigaflops(size: int = 1024) -> float:
    """Return the best rate of 3 float32 products of size x size matrices: a ceiling for convolutions."""
    matrix = np.ones((size, size), np.float32)
    best = min(_seconds_of_product(matrix) for _ in range(3))
    return 2 * size**3 / best / 1e9


def _seconds_of_product(matrix: np.ndarray) -> float:
    start = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - start


def cpu_name() -> str:
    """Return the CPU's model, or the kind of processor if the system has no name for it."""
    if match := re.search(r"^model name\s*: *(.+)$", _cpuinfo(), re.MULTILINE):
        return match[1].strip()
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "unknown"


def instruction_sets() -> tuple[str, ...]:
    """Return those of INSTRUCTION_SETS that the CPU has; none if the system does not report them."""
    if match := re.search(r"^(?:flags|Features)\s*:(.+)$", _cpuinfo(), re.MULTILINE):
        flags = set(match[1].split())
    else:
        flags = {name for fact, name in MACOS.items() if _sysctl(fact) == "1"}
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text()
    except OSError:
        return ""


def _sysctl(name: str) -> str | None:
    """Return a value of macOS's sysctl; None elsewhere, or if it is unknown."""
    if platform.system() != "Darwin":
        return None
    try:
        result = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
