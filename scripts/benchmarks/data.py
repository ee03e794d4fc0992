"""Measure input pipelines (decode, random crop, random flip) in images a second, medians of alternating rounds:
hyperrule's own training pipeline, a plain tf.data one, and torchvision's.

    scripts/bench data [FOLDER_OF_PHOTOGRAPHS FOLDER_OF_SMALL_IMAGES]     folders of CLASS/*.jpg

Without folders, parts of `clothing.tar.gz` and `cifar10.tar.gz` in HYPERRULE_TEST_DATA are unpacked.
HYPERRULE_TORCH_PYTHON names a Python that has torchvision; if it is not set, torchvision is left out.
"""

import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from hyperrule.data.images import Examples, Files
from hyperrule.data.pipeline import training_batches
from hyperrule.data.preprocess import Augmentation

ROUNDS, BATCH = 5, 64
ARCHIVES = Path(os.environ.get("HYPERRULE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
CASES = {"clothing": (512, 480, 2_048), "cifar10": (160, 128, 25_600)}  # resize, crop, images of a round
TORCHVISION = """
import sys, time, torch
from torchvision import datasets, transforms as t
folder, resize, crop, images, batch = sys.argv[1], *map(int, sys.argv[2:])
steps = [t.Resize((resize, resize)), t.RandomCrop(crop), t.RandomHorizontalFlip(), t.ToTensor()]
data = datasets.ImageFolder(folder, t.Compose(steps))
data.samples = (data.samples * (images // len(data.samples) + 1))[:images]
loader = torch.utils.data.DataLoader(data, batch, shuffle=True, num_workers=2)
start = time.perf_counter()
for _ in loader: pass
print(time.perf_counter() - start)
"""


def unpacked(name: str, scratch: Path, most: int) -> Path:
    """Unpack up to `most` images of an archive as CLASS/*.jpg."""
    with tarfile.open(ARCHIVES / f"{name}.tar.gz") as archive:
        images = (member for member in archive if member.isfile() and member.name.endswith(".jpg"))
        for member in islice(images, most):
            class_name, file = Path(member.name).parts[-2:]
            member.name = f"{name}/{class_name}/{file}"
            archive.extract(member, scratch, filter="data")
    return scratch / name


def own(folder: Path, resize: int, crop: int, images: int) -> tf.data.Dataset:
    names = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.jpg"))
    examples = Examples(names, np.zeros(len(names), np.int32), Files.of(folder, names))
    return training_batches(
        examples, 10, Augmentation(resize, crop, True, True, 0.0), BATCH, BATCH, range(images // BATCH), seed=0
    )


def plain(folder: Path, resize: int, crop: int, images: int) -> tf.data.Dataset:
    def load(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.resize(image, [resize, resize]) / 255
        image = tf.image.random_crop(image, [crop, crop, 3])
        return tf.image.random_flip_left_right(image)

    paths = sorted(map(str, folder.glob("*/*.jpg")))
    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat().shuffle(len(paths)).take(images)
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(BATCH).prefetch(2)


def iterated(dataset: tf.data.Dataset) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        for _ in dataset:
            pass
        return time.perf_counter() - start

    return seconds


def torchvision(interpreter: str, folder: Path, *numbers: int) -> Callable[[], float]:
    command = [interpreter, "-c", TORCHVISION, str(folder), *map(str, (*numbers, BATCH))]
    return lambda: float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


with tempfile.TemporaryDirectory() as scratch:
    folders = [Path(argument) for argument in sys.argv[1:]] or [unpacked(name, Path(scratch), 2000) for name in CASES]
    interpreter = os.environ.get("HYPERRULE_TORCH_PYTHON")
    if interpreter is None:
        print("torchvision is left out: HYPERRULE_TORCH_PYTHON is not set")
    for folder, (resize, crop, images) in zip(folders, CASES.values(), strict=True):
        ways = {name: iterated(make(folder, resize, crop, images)) for name, make in (("own", own), ("plain", plain))}
        if interpreter is not None:
            ways["torchvision"] = torchvision(interpreter, folder, resize, crop, images)
        rounds = [{name: seconds() for name, seconds in ways.items()} for _ in range(ROUNDS + 1)][
            1:
        ]  # the first round warms up
        for name in ways:
            rate = images / statistics.median(taken[name] for taken in rounds)
            ratio = statistics.median(taken[name] / taken["own"] for taken in rounds)
            print(f"{resize} -> {crop} px  {name:<12} {rate:8.0f} images/s   hyperrule is {ratio:5.2f} times as fast")
