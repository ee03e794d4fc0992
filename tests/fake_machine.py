"""A made-up machine for tests: an nvidia-smi with scripted output, Linux system files, measured speeds."""

import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from hyperrule.planning.machine.machine import this_machine
from hyperrule.planning.machine.speed import Rate, Speed, software

V100, A100 = "Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB"
THREE_GPUS = f"""\
0, GPU-11aa, {V100}, 16384, 16160, 7.0, 535.129.03
1, GPU-22bb, {A100}, 40960, 20480, 8.0, 535.129.03
2, GPU-23cc, {A100}, 40960, 40536, 8.0, 535.129.03
"""
FAILS = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."

NvidiaSmi = Callable[[str], None]


@pytest.fixture
def unknown_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with no cached facts, no hidden GPUs and no measured speeds."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("hyperrule.planning.machine.machine._matrix_product_gigaflops", lambda: 100.0)
    this_machine.cache_clear()
    yield
    this_machine.cache_clear()


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvidiaSmi:
    """A function that installs a shell script as `nvidia-smi`, first on PATH."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def written(root: Path, files: dict[str, str]) -> Path:
    """Write files (relative name -> text) below `root` and return it."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def speed_of(device: str = "Some CPU", **rates: float | None) -> Speed:
    """Return a Speed with images a second by precision; a keyword that ends in "_xla" is with XLA."""
    return Speed(
        day=date(2026, 1, 31),
        device=device,
        versions=software(),
        what="training step",
        rates=tuple(
            Rate(precision=name.removesuffix("_xla"), xla=name.endswith("_xla"), images_per_second=rate)  # type: ignore[arg-type]
            for name, rate in rates.items()
        ),
    )
