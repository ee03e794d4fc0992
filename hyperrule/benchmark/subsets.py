"""Which images of a data set are labelled: balanced, nested subsets, the same for every backbone and method."""

import re
from pathlib import Path

import numpy as np

from hyperrule.benchmark.ledger import Shots
from hyperrule.data.images import Examples, Indices
from hyperrule.data.listing import DatasetInfo
from hyperrule.data.selection import few_shot
from hyperrule.errors import RecipeError
from hyperrule.support.files import whole_file
from hyperrule.support.wording import listed


def subset(training: Examples, class_names: tuple[str, ...], shots: Shots, seed: int) -> Indices:
    """Numbers (ascending) of the images: `shots` of every class, or all. Those of fewer shots are among those of more.

    `training` is `Source.examples("train")`; a fine-tuning with this seed and so many examples per class has the very
    same images. Raises DataError where a class has fewer.
    """
    if shots == "full":
        return np.arange(len(training))
    return few_shot(training.labels, class_names, shots, seed)


def check_shots(name: str, info: DatasetInfo, shots: Shots) -> None:
    """Raises RecipeError, naming the classes, if some have fewer training images than `shots`."""
    per_class = info.splits["train"].per_class
    if shots == "full" or shots <= min(per_class):
        return
    lacking = (f"{one!r} ({count})" for one, count in zip(info.class_names, per_class, strict=True) if count < shots)
    raise RecipeError(
        f"shots: {shots} is more than these classes of {name} have for training: {listed(lacking)}. "
        f"Choose at most {min(per_class)}, or full."
    )


def list_file(folder: Path, dataset: str, shots: Shots, seed: int) -> Path:
    """DATASET-SHOTS-SEED.txt.

    >>> list_file(Path("subsets"), "cifar10", 5, 0).as_posix()
    'subsets/cifar10-5-0.txt'
    """
    return folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset)}-{shots}-{seed}.txt"


def write_list(file: Path, chosen: Examples) -> None:
    """The ids, one a line, in the order in which the images are used. Raises RunError."""
    with whole_file(file) as partial:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(f"{identity}\n" for identity in chosen.ids), encoding="utf-8")
