"""What a data set says it holds, before any image is read: the contract of every kind of source.

A module of `data.sources` lists one kind of storage; everything after it (inspection, splits, subsets, the
pipeline) is common to all.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from hyperrule.data.contents import Contents, Indices
from hyperrule.data.dataset_info import Augmentation, Split
from hyperrule.errors import DataError
from hyperrule.support.wording import listed

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
    contents: Contents
    splits: dict[Split, Indices] = field(default_factory=dict)
    origins: dict[Split, str] = field(default_factory=dict)
    class_order: str = AS_TEXT
    notes: tuple[str, ...] = ()
    cost: str = ""
    destroys_label: dict[Augmentation, str] = field(default_factory=dict)
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
