"""Compare the preflight check, which decodes and inspects all images, with only decoding all files with Pillow in a
process pool, both on all cores, alternating, medians of 3.

    scripts/bench preflight [FOLDER]...    folders of images; by default CIFAR-10 and clothing
"""

import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from hyperrule.data.images import Files
from hyperrule.data.inspection import inspect
from hyperrule.support.progress import Reporter

AT_MOST = 5_000
ARCHIVES = Path(__file__).parents[3] / "shared" / "data"


def unpacked(folder: Path, name: str) -> Path:
    with tarfile.open(ARCHIVES / f"{name}.tar.gz") as archive:
        archive.extractall(folder / name, filter="data")
    return folder / name


def decode(file: str) -> None:
    with Image.open(file) as image:
        image.load()


def just_decode(files: list[str]) -> None:
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(decode, files, chunksize=128):
            pass


def preflight(files: list[str]) -> None:
    inspect(Files.of(Path("/"), files), True, Reporter(quiet=True))


def seconds(work: Callable[[list[str]], None], files: list[str]) -> float:
    start = time.perf_counter()
    work(files)
    return time.perf_counter() - start


with tempfile.TemporaryDirectory() as scratch:
    folders = [Path(name) for name in sys.argv[1:]] or [unpacked(Path(scratch), n) for n in ("cifar10", "clothing")]
    for folder in folders:
        files = sorted(str(file.resolve()) for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".png"))
        files = files[:: max(1, len(files) // AT_MOST)][:AT_MOST]
        just_decode(files)  # from here on the files are in the page cache
        rounds = [(seconds(just_decode, files), seconds(preflight, files)) for _ in range(3)]
        peer, ours = (statistics.median(taken) for taken in zip(*rounds, strict=True))
        print(f"{folder.name:<12} {len(files):>6} images   decode {peer:6.2f} s   preflight {ours:6.2f} s", end="   ")
        print(f"{ours / peer:5.2f} x decoding alone")
