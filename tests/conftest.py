"""Shared test data: tiny image folders, the golden figures, and real images if they are available."""

import ctypes
import gc
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from forks import run_script
from PIL import Image

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: threads of one would wait for those of another
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

GOLDEN = Path(__file__).with_name("golden.npz")
REAL_DATA = Path(os.environ.get("HYPERRULE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


# Files whose tests take minutes, the longest first: if one of them started last, a single core would run it alone.
LONGEST = (
    "test_workers",
    "test_resume",
    "test_budget",
    "test_distill",
    "test_backbones",
    "test_finetune",
    "test_port",
    "test_precision",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own cache is neither read nor changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _replays() -> Iterator[None]:
    """Exports run in forks instead of fresh processes, but for those of commands that tests start."""
    run = subprocess.run

    def forked(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        if "runtimes.py" in str(command):
            return run_script(command, env=options["env"], cwd=options["cwd"])
        return run(command, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", forked)
        yield


@pytest.fixture(scope="module", autouse=True)
def _memory() -> Iterator[None]:
    """Graphs of one file are gone when the next begins."""
    yield
    if "tensorflow" in sys.modules:
        sys.modules["keras"].utils.clear_session()
        _forget_custom_gradients()
    gc.collect()
    gc.freeze()  # what is left stays: later collections need not look at it
    with suppress(AttributeError, OSError):  # where the C library is another
        ctypes.CDLL(None).malloc_trim(0)


def _forget_custom_gradients() -> None:
    """TensorFlow keeps the function of every custom gradient that it has traced, and by it the whole graph."""
    from tensorflow.python.framework import ops

    registry = ops.gradient_registry._registry
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        del registry[name]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes that differ in colour, 10 JPEGs of 20 x 24 px each, in CLASS/NN.jpg."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cold", "warm")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(10):
            pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * label] += 120
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index:02d}.jpg")
    return tmp_path / "images"


@contextmanager
def exporting_nothing() -> Iterator[None]:
    """Make runs in this process skip export and report, half of a small run's time, for tests of earlier stages."""
    from hyperrule.data.images import Examples
    from hyperrule.exporting.parity import Parity, add_parity
    from hyperrule.jobs.job import Job

    def export(
        job: Job, examples: Examples, probabilities: npt.NDArray[np.float32], temperature: float = 1.0
    ) -> Parity:
        parity = Parity(
            format="saved_model",
            quantize="none",
            path=str(job.run.saved_model),
            bytes=0,
            examples=len(probabilities),
            top1_agreement=1.0,
            largest_difference=0.0,
            accuracy_before=1.0,
            accuracy_after=1.0,
            latency_ms_1=1.0,
            images_per_second_32=1.0,
        )
        job.run.export.mkdir(exist_ok=True)
        return add_parity(job.run.parity_file, parity)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "export", export)
        patch.setattr("hyperrule.reporting.make.write_report", lambda _: None)
        yield


@pytest.fixture
def without_export() -> Iterator[None]:
    with exporting_nothing():
        yield


@pytest.fixture(scope="module")
def module_without_export() -> Iterator[None]:
    with exporting_nothing():
        yield


@pytest.fixture(scope="session")
def golden() -> dict[str, npt.NDArray[np.float64]]:
    """Outputs of an independent float64 BiT, by keys such as "R26x0.5/seed1/2x64x64x3/features"."""
    with np.load(GOLDEN) as archive:
        return dict(archive)


def golden_array(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the weights behind the golden figures, seeded by the array's name."""
    array = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if "head" in name:
        array *= 0.01
    elif name.endswith("gamma"):
        array = 1 + 0.1 * array
    elif name.endswith("beta"):
        array *= 0.1
    return array.astype(np.float32)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory):
    """A function that unpacks a named archive of real images and returns its folder; skips the test without it."""

    def unpacked(name: str) -> Path:
        archive = REAL_DATA / f"{name}.tar.gz"
        if not archive.is_file():
            pytest.skip(f"no real images: {archive.name} is missing (set HYPERRULE_TEST_DATA to their folder)")
        folder = tmp_path_factory.getbasetemp() / name
        if not folder.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        return folder

    return unpacked
