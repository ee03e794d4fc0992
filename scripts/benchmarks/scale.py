"""Measure the memory that a manifest of a million rows takes: planning in one fresh process, 1,000 training batches in
another.

scripts/bench scale [ROWS]. Every row has its own path: the files are hard links to a thousand small JPEGs.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
IMAGES, CLASSES, PER_FOLDER = 1_000, 100, 10_000
MEASURED = {
    "plan": """
import resource, sys, time, hyperrule
from hyperrule import api
hyperrule.plan(dataset="digits")
base, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
planned = hyperrule.plan(dataset=sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 2**20, time.monotonic() - start)
""",
    "batches": """
import psutil, sys, time, hyperrule
from hyperrule.data.open import open_source
from hyperrule.data.preprocess import Augmentation
from hyperrule.data.pipeline import training_batches
from hyperrule.support.progress import Reporter
def memory(): return psutil.Process().memory_info().rss / 2**30
def batches(dataset, count):
    source = open_source(dataset, reporter=Reporter(quiet=True))
    examples = source.examples("train")
    del source
    augmentation = Augmentation(40, 32, True, True, 0.1)
    return iter(training_batches(examples, 100, augmentation, 512, 512, range(count), seed=0))
next(batches("digits", 1))
base, start = memory(), time.monotonic()
stream = batches(sys.argv[1], 1010)
next(stream)
print(memory() - base, time.monotonic() - start)
for _ in range(9): next(stream)
print(memory() - base, time.monotonic() - start)
for _ in range(990): next(stream)
print(memory() - base, time.monotonic() - start)
""",
}


def write_manifest(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    (folder / "pool").mkdir()
    for number in range(IMAGES):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
        (folder / "pool" / f"{number}.jpg").write_bytes(buffer.getvalue())
    with (folder / "images.csv").open("w") as table:
        table.write("path,label\n")
        for row in range(ROWS):
            name = f"{row // PER_FOLDER:04d}/{row:08d}.jpg"
            if row % PER_FOLDER == 0:
                (folder / name).parent.mkdir()
            os.link(folder / "pool" / f"{row % IMAGES}.jpg", folder / name)
            table.write(f"{name},class {row % CLASSES}\n")
    return folder / "images.csv"


def measured(what: str, manifest: Path) -> list[list[float]]:
    command = [sys.executable, "-c", MEASURED[what], str(manifest)]
    printed = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return [[float(figure) for figure in line.split()] for line in printed.splitlines()]


with tempfile.TemporaryDirectory() as scratch:
    start = time.monotonic()
    table = write_manifest(Path(scratch))
    print(f"{ROWS} rows, {table.stat().st_size / 2**20:.0f} MiB, written in {time.monotonic() - start:.0f} s")
    ((peak, seconds),) = measured("plan", table)
    print(f"plan: {peak:.2f} GiB at its peak, above planning digits; {seconds:.0f} s")
    for name, (memory, seconds) in zip(
        ("first batch", "10 batches", "1,000 batches"), measured("batches", table), strict=True
    ):
        print(f"{name}: {memory:.2f} GiB, above batches of digits; {seconds:.0f} s")
