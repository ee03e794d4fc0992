"""Facts about this machine that the plan needs, found without TensorFlow."""

import os
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict


class Gpu(BaseModel):
    """One NVIDIA GPU as nvidia-smi describes it; memory in bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    memory: int
    compute_capability: float


class Machine(BaseModel):
    """Cores this process may use, memory in bytes, GPUs, and what the CPU's matrix product reaches."""

    model_config = ConfigDict(frozen=True)

    cores: int
    memory: int
    available_memory: int
    gpus: tuple[Gpu, ...]
    cpu_bfloat16: bool
    gigaflops: float


@cache
def this_machine() -> Machine:
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        available_memory=psutil.virtual_memory().available,
        gpus=_gpus(),
        cpu_bfloat16=_cpu_has_bfloat16(),
        gigaflops=_matrix_product_gigaflops(),
    )


def _gpus() -> tuple[Gpu, ...]:
    """GPUs that nvidia-smi lists; none where it is missing, fails or takes over 10 seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None or visible in ("", "-1"):
        return ()
    chosen = [] if visible is None else [f"--id={visible}"]
    query = ["nvidia-smi", *chosen, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        rows = [[field.strip() for field in line.split(",")] for line in answer.splitlines()]
        return tuple(
            Gpu(name=name, memory=int(mebibytes) * 2**20, compute_capability=float(capability))
            for name, mebibytes, capability in rows
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _matrix_product_gigaflops(size: int = 1024) -> float:
    """Best of 3 float32 products of size x size matrices: a ceiling for convolutions."""
    matrix = np.ones((size, size), np.float32)
    best = min(_seconds_of_product(matrix) for _ in range(3))
    return 2 * size**3 / best / 1e9


def _seconds_of_product(matrix: np.ndarray) -> float:
    start = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - start
