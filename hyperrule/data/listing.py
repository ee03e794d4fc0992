"""What a data set says it holds, before any image is read: the contract of every kind of source.

A module of `data.sources` lists one kind of storage; everything after it (inspection, splits, subsets, the
pipeline) is common to all.

What a data set is: the facts that the plan needs.

The order of classes whose names come from a column of labels.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hyperrule.data.images import EncodedImages, Indices
from hyperrule.errors import DataError
from hyperrule.support.wording import listed

Split = Literal["train", "validation", "test"]
AugmentationName = Literal["flip", "crop"]


class SplitInfo(BaseModel):
    """Size of one split. `per_class` follows the order of `DatasetInfo.class_names`."""

    model_config = ConfigDict(frozen=True)

    examples: int
    per_class: tuple[int, ...]
    origin: str


class DatasetInfo(BaseModel):
    """Facts about a labelled image data set, known before TensorFlow is imported.

    `height` and `width` (pixels) are those of the image with the median area: the "image size" of
    a data set of mixed sizes. `sha256` covers every image's bytes, class and split, and nothing of how they are
    stored. `destroys_label` gives a reason for each augmentation that must stay off. `warnings` tell of what is
    wrong with the data, `notes` of how it was read.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    location: str | None
    class_names: tuple[str, ...]
    class_order: str
    splits: dict[Split, SplitInfo]
    height: int
    width: int
    sha256: str
    skipped: dict[str, str] = {}
    destroys_label: dict[AugmentationName, str] = {}
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}  # what data sets call their splits
AS_TEXT = "names as text"  # the order of classes where nothing else is said


@dataclass(frozen=True)
class DataRequest:
    """A data set as the user typed it; what is None, the data set decides.

    `splits` says what a split is called in the data set, or its TFDS or Hugging Face expression
    ("train[:98%]"). `image_key` and `label_key` name columns, features or fields.
    """

    dataset: str
    splits: Mapping[Split, str] = field(default_factory=dict)
    data_dir: Path | None = None
    image_key: str | None = None
    label_key: str | None = None


@dataclass(frozen=True)
class Listing:
    """n labelled images in an order that every listing repeats.

    `ids` are short, unique and printable: paths within the data set where it has paths. `labels` int32 [n] index
    `class_names`; `class_order` says whose order that is. `splits` (ascending numbers of images) and `origins` are
    empty where the data set is not split, and else have the same keys, in the order train, validation, test.
    `cost` tells what was read to list images that have no index, empty if nothing was. `prescribed` splits, those of a
    benchmark, may leave classes without training images.
    """

    kind: str
    location: Path | None
    class_names: tuple[str, ...]
    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    contents: EncodedImages
    splits: dict[Split, Indices] = field(default_factory=dict)
    origins: dict[Split, str] = field(default_factory=dict)
    class_order: str = AS_TEXT
    notes: tuple[str, ...] = ()
    cost: str = ""
    destroys_label: dict[AugmentationName, str] = field(default_factory=dict)
    prescribed: bool = False


def split_by_name(names: Sequence[str], request: DataRequest, data_set: str) -> dict[Split, str]:
    """Which of the `names` (of folders, of values of a column, of shards) is which split, by the request or by custom.

    Empty when no name is that of a split. Raises DataError for two names of one split, and for a name asked for that
    is not there.
    """
    if request.splits:
        missing = [name for name in request.splits.values() if name not in names]
        if missing:
            has = listed(names) or "no splits"
            raise DataError(f"{data_set} has no split {listed(map(repr, missing))}. It has: {has}.")
        if twice := [name for name, times in Counter(request.splits.values()).items() if times > 1]:
            raise DataError(f"{twice[0]!r} of {data_set} cannot be two splits at once: name another, or leave one out.")
        chosen = dict(request.splits)
    else:
        chosen = {}
        for name in names:
            if (split := SPLIT_NAMES.get(name.lower())) is not None:
                if split in chosen:
                    raise DataError(
                        f"{data_set} has two names for the {split} split: {chosen[split]} and {name}. "
                        f"Say which: --{split}-split {name}"
                    )
                chosen[split] = name
    return {split: chosen[split] for split in get_args(Split) if split in chosen}


def labels_of(texts: Sequence[str], class_names: Sequence[str]) -> npt.NDArray[np.int32]:
    """int32 [n] indices of the texts in `class_names`."""
    index = {name: label for label, name in enumerate(class_names)}
    return np.fromiter((index[text] for text in texts), np.int32, len(texts))


AS_NUMBERS = "names as numbers"
INTEGER = re.compile(r"[+-]?[0-9]{1,99}")  # Python refuses to take thousands of digits for a number


def ordered(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Distinct names in order, and what order that is: of numbers where all are integers that differ, else of text.

    >>> ordered(["10", "9"])
    (('9', '10'), 'names as numbers')
    >>> ordered(["10", "9", "cat"])
    (('10', '9', 'cat'), 'names as text')
    """
    if are_integers(names):
        return tuple(sorted(names, key=int)), AS_NUMBERS
    return tuple(sorted(names)), AS_TEXT


def are_integers(names: Sequence[str]) -> bool:
    return all(INTEGER.fullmatch(name) for name in names)


def spelled_twice(names: Sequence[str]) -> list[str]:
    """Integers among `names` of which another is equal in value, such as "7" and "07".

    >>> spelled_twice(["7", "8", "07"])
    ['07', '7']
    """
    if not are_integers(names):
        return []
    counts = Counter(map(int, names))
    return sorted(name for name in names if counts[int(name)] > 1)
