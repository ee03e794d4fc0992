"""Run an export over images, and time it.

python replay.py RUNTIME.py MODEL IMAGES OUTPUT.npz

IMAGES is a .npy of float32 [N, S, S, 3], or a folder of encoded images.
"""

import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
SINGLE = 20  # images that are timed one by one


def main(runtime: str, model: str, images: str, output: str) -> None:
    own = runpy.run_path(runtime)
    parts: list[Any]
    if images.endswith(".npy"):
        answer, inputs = own["load"](model), np.load(images, mmap_mode="r")
        parts = [np.ascontiguousarray(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]
    else:
        answer, inputs = own["load_encoded"](model), [path.read_bytes() for path in sorted(Path(images).iterdir())]
        parts = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
    answer(parts[0])  # compiles
    start = time.perf_counter()
    probabilities = np.concatenate([answer(part) for part in parts])
    seconds = time.perf_counter() - start
    single = [_seconds(answer, inputs[index : index + 1]) for index in range(min(SINGLE, len(inputs)))]
    np.savez(
        output,
        probabilities=probabilities,
        class_names=np.array(own["class_names"](model)),
        images_per_second=len(probabilities) / seconds,
        latency_ms=1000 * np.median(single[1:] or single),  # the first compiles
    )


def _seconds(answer: Callable[[Any], np.ndarray], images: Any) -> float:
    start = time.perf_counter()
    answer(images)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
