"""What a data set contains, before any image is read: the contract between `data.sources` and the rest.

A module of `data.sources` turns one data format into a `Listing`; everything after it (inspection, splits, subsets, the
pipeline) is common to all formats. `DatasetInfo` has the facts that the plan needs. Shared by all formats are also the
names of splits and the order of classes that come from a column of labels.
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

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}  # usual names of splits
AS_TEXT = "names as text"  # the default order of classes
AS_NUMBERS = "names as numbers"
INTEGER = re.compile(r"[+-]?[0-9]{1,99}")  # Python refuses to convert thousands of digits


class SplitInfo(BaseModel):
    """Size and origin of one split. `per_class` is in the order of `DatasetInfo.class_names`."""

    model_config = ConfigDict(frozen=True)

    examples: int
    per_class: tuple[int, ...]
    origin: str


class DatasetInfo(BaseModel):
    """Facts about a labelled image data set, known before TensorFlow is imported.

    `height` and `width` (pixels) are those of the image with the median area: the "image size" of
    a data set of mixed sizes. `sha256` covers every image's bytes, class and split, independently of the storage
    format. `destroys_label` gives a reason for each augmentation that must stay off. `warnings` report defects of the
    data, `notes` how it was read.
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


@dataclass(frozen=True)
class DataRequest:
    """A data set as the user typed it. None leaves the choice to the data set.

    `splits` maps a split to its name in the data set, or to its TFDS or Hugging Face expression
    ("train[:98%]"). `image_key` and `label_key` name columns, features or fields.
    """

    dataset: str
    splits: Mapping[Split, str] = field(default_factory=dict)
    data_dir: Path | None = None
    image_key: str | None = None
    label_key: str | None = None


@dataclass(frozen=True)
class Listing:
    """n labelled images in a reproducible order.

    `ids` are short, unique and printable: paths within the data set if it has paths. `labels` (int32 [n]) index
    `class_names`; `class_order` describes their order. `splits` (ascending indices of images) and `origins` have the
    same keys, in the order train, validation, test; both are empty if the data set is not split. `cost` describes what
    was read to index the images; it is empty if the format has an index. `prescribed`: a benchmark fixes the splits, so
    that classes may lack training images.
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
    """Assign splits to `names` (of folders, column values or shards), by the request or by usual names.

    Empty if no name is that of a split. Raises DataError if two names fit one split, or if a requested name is missing.
    """
    if request.splits:
        missing = [name for name in request.splits.values() if name not in names]
        if missing:
            has = listed(names) or "no splits"
            raise DataError(f"{data_set} has no split {listed(map(repr, missing))}. It has: {has}.")
        if twice := [name for name, times in Counter(request.splits.values()).items() if times > 1]:
            raise DataError(
                f"{twice[0]!r} of {data_set} cannot be two splits at once: give another name, or leave one out."
            )
        chosen = dict(request.splits)
    else:
        chosen = {}
        for name in names:
            if (split := SPLIT_NAMES.get(name.lower())) is not None:
                if split in chosen:
                    raise DataError(
                        f"{data_set} has two names for the {split} split: {chosen[split]} and {name}. "
                        f"Choose one: --{split}-split {name}"
                    )
                chosen[split] = name
    return {split: chosen[split] for split in get_args(Split) if split in chosen}


def labels_of(texts: Sequence[str], class_names: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return int32 [n]: the index of each text in `class_names`."""
    index = {name: label for label, name in enumerate(class_names)}
    return np.fromiter((index[text] for text in texts), np.int32, len(texts))


def ordered(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Sort distinct names, numerically if all are integers, else as text; return them and a description of the order.

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
    """Return the integers among `names` whose value occurs more than once, such as "7" and "07".

    >>> spelled_twice(["7", "8", "07"])
    ['07', '7']
    """
    if not are_integers(names):
        return []
    counts = Counter(map(int, names))
    return sorted(name for name in names if counts[int(name)] > 1)
