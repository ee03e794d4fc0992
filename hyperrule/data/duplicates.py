"""Images that are equal byte for byte: within a class, in two classes, in training and test."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperrule.data.contents import Indices
from hyperrule.data.dataset_info import Split


@dataclass(frozen=True)
class Duplicates:
    """Numbers of images, ascending.

    `repeated`: those that came before in the same class and split. `conflicting`: those that some other class has
    too. `leaked`: those for validation or test that are also trained on.
    """

    repeated: Indices
    conflicting: Indices
    leaked: Indices


def equal_groups(sha256: npt.NDArray[np.uint8]) -> Indices:
    """int64 [n]: the same number for the same hash, of hashes [n, 32]."""
    rows = np.ascontiguousarray(sha256).view(np.dtype((np.void, sha256.shape[1])))[:, 0]
    return np.unique(rows, return_inverse=True)[1].astype(np.int64)


def find_duplicates(groups: Indices, labels: npt.NDArray[np.int32], splits: dict[Split, Indices]) -> Duplicates:
    """Of images in groups (int64 [n]) that are alike; those in no split do not count."""
    split_of = np.full(len(groups), -1)
    for number, members in enumerate(splits.values()):
        split_of[members] = number
    used = np.flatnonzero(split_of >= 0)
    _, first = np.unique(np.stack([groups[used], labels[used], split_of[used]]), axis=1, return_index=True)
    pairs = np.unique(np.stack([groups[used], labels[used]]), axis=1)
    of_two_classes = np.flatnonzero(np.bincount(pairs[0], minlength=1) > 1)
    held_out = np.concatenate([np.zeros(0, np.int64), *(m for split, m in splits.items() if split != "train")])
    return Duplicates(
        repeated=np.sort(np.delete(used, first)),
        conflicting=used[np.isin(groups[used], of_two_classes)],
        leaked=np.sort(held_out[np.isin(groups[held_out], groups[splits["train"]])]) if "train" in splits else held_out,
    )
