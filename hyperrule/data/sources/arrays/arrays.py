"""Arrays of images and labels: .npz archives (Keras' x_train, y_train, x_test, y_test; MedMNIST's train_images,
train_labels, ...; or one pair, such as images and labels) and .npy files with the labels beside.

Images are uint8 [N, height, width], [N, height, width, 1] or [N, height, width, 3], 0-255, and stay on the disk.
Labels are integers, text or one-hot. `x_train.npy` brings its y_train, x_test, ... of the same folder along; any other
NAME.npy has its labels in NAME_labels.npy, labels.npy or y.npy. Integers stand for the names in `class_names` of the
archive or in classes.txt beside it, if there is either.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Pixels
from hyperrule.data.listing import SPLIT_NAMES, DataRequest, Listing, Split, split_by_name
from hyperrule.data.sources.arrays.labels import class_labels, given_class_names, plain_labels
from hyperrule.data.sources.arrays.npy import Npy, members
from hyperrule.errors import DataError, RunError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import did_you_mean, listed

IMAGES = ("x", "images", "image", "data")
LABELS = ("y", "labels", "label", "target", "targets")
CONVENTIONS = "x_train, y_train, x_test, y_test; train_images, train_labels, ...; images, labels; x, y; data, target"
DAMAGE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError, RunError)
Pair = tuple[str, str]  # keys of images and of labels


def list_arrays(request: DataRequest, reporter: Reporter) -> Listing:
    """All images, split by split in the order train, validation, test; ids "train/000123", or "images/000123" where
    there are no splits.

    Compressed images are unpacked once into the cache folder. Raises DataError for arrays that are missing, damaged
    or not of the shapes and types above.
    """
    path = Path(os.path.expanduser(request.dataset))
    with _damage_told(path):
        arrays = members(path) if path.suffix.lower() == ".npz" else _beside(path)
        chosen, pairs = _pairs(path, arrays, request)
        for key, _ in pairs:
            _check_images(f"{key} of {path}", arrays[key])
        labels = [plain_labels(f"{key} of {path}", arrays[key].load()) for _, key in pairs]
        for (image, label), found in zip(pairs, labels, strict=True):
            if len(found) != (count := arrays[image].header.shape[0]):
                raise DataError(f"{image} of {path} holds {count} images, but {label} holds {len(found)} labels.")
        class_names, indices, order = class_labels(path, labels, given_class_names(path, arrays))
        images = [arrays[key].mapped(reporter) for key, _ in pairs]
    ends = np.cumsum([0, *map(len, images)])
    ranges = [np.arange(start, end) for start, end in pairwise(ends)]
    folders: list[str] = [*chosen] if chosen else [pairs[0][0]]
    return Listing(
        kind="arrays",
        location=path.resolve(),
        class_names=class_names,
        ids=[f"{folder}/{row:06d}" for folder, array in zip(folders, images, strict=True) for row in range(len(array))],
        labels=indices,
        contents=Pixels.of(images[0] if len(images) == 1 else Joined(images)),
        splits=dict(zip(chosen, ranges, strict=False)),
        origins={split: f"{image} and {label}" for split, (image, label) in zip(chosen, pairs, strict=False)},
        class_order=order,
        notes=_left_out(arrays, pairs),
    )


class Joined:
    """Arrays one after another, images of which are taken by one number: an archive maps only as one array a key."""

    def __init__(self, arrays: Sequence[npt.NDArray[np.uint8]]) -> None:
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> npt.NDArray[np.uint8]:
        which = int(np.searchsorted(self.ends, number, "right"))
        image: npt.NDArray[np.uint8] = self.arrays[which][number - self.ends[which]]  # from its end
        return image


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        with os_errors_as(DataError, f"cannot read {path}"):
            yield
    except DAMAGE as error:
        why = str(error).splitlines()[0].rstrip(".") if str(error) else "it ends too early"
        raise DataError(f"cannot read arrays of {path}: {why}.") from None


def _beside(file: Path) -> dict[str, Npy]:
    """The file and all .npy of its folder, by their names without suffix."""
    file.open("rb").close()
    return {other.stem: Npy(other) for other in sorted(file.parent.glob("*.npy"))} | {file.stem: Npy(file)}


def _pairs(path: Path, arrays: Mapping[str, Npy], request: DataRequest) -> tuple[dict[Split, str], list[Pair]]:
    """What each split is called in the keys, nothing if there are no splits; and the pair of each, or the only one."""
    whole, halves = _by_word(arrays)
    splits = [word for word in {**whole, **halves} if word.lower() in SPLIT_NAMES or word in request.splits.values()]
    if path.suffix.lower() == ".npy" and (request.label_key or _role(path.stem)[1] not in splits):
        return {}, [(path.stem, _labels_beside(path, arrays, request, whole))]
    if request.image_key or request.label_key:
        return {}, [_asked(path, arrays, request, whole.get(""))]
    if lonely := [halves[word] for word in halves if word in splits]:
        raise DataError(f"{path} has {lonely[0]} without its counterpart. It has: {_received(arrays)}.")
    chosen = split_by_name([word for word in whole if word], request, str(path))
    if chosen:
        return chosen, [whole[word] for word in chosen.values()]
    if "" not in whole:
        raise DataError(
            f"{path} has no images with labels by names that are known ({CONVENTIONS}). It has: {_received(arrays)}. "
            "Name one pair with --image-key and --label-key."
        )
    return {}, [whole[""]]


def _by_word(arrays: Mapping[str, Npy]) -> tuple[dict[str, Pair], dict[str, str]]:
    """Pairs by what their keys say beside "images" or "labels", which is a split or nothing; and keys without pair."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for key in arrays:
        role, word = _role(key)
        if role is not None:
            (images if role in IMAGES else labels).setdefault(word, key)
    whole = {word: (key, labels[word]) for word, key in images.items() if word in labels}
    return whole, {word: key for word, key in (images | labels).items() if word not in whole}


def _role(key: str) -> tuple[str | None, str]:
    """What the array is, and the rest of the key.

    >>> _role("x_train"), _role("val_images"), _role("images"), _role("weights")
    (('x', 'train'), ('images', 'val'), ('images', ''), (None, 'weights'))
    """
    first, _, rest = key.partition("_")
    if first.lower() in IMAGES + LABELS:
        return first.lower(), rest
    rest, _, last = key.rpartition("_")
    return (last.lower(), rest) if last.lower() in IMAGES + LABELS else (None, key)


def _asked(path: Path, arrays: Mapping[str, Npy], request: DataRequest, usual: Pair | None) -> Pair:
    keys = []
    options = (("--image-key", request.image_key), ("--label-key", request.label_key))
    for (option, asked), other in zip(options, usual or (None, None), strict=True):
        key = asked or other
        if key is None:
            raise DataError(f"{path}: name both arrays, also with {option}. It has: {_received(arrays)}.")
        if key not in arrays:
            hint = did_you_mean(key, arrays)
            raise DataError(f"{path} has no array {key!r} ({option}). It has: {_received(arrays)}.{hint}")
        keys.append(key)
    return keys[0], keys[1]


def _labels_beside(path: Path, arrays: Mapping[str, Npy], request: DataRequest, whole: Mapping[str, Pair]) -> str:
    pair = whole.get(_role(path.stem)[1], ("", ""))
    asked = [request.label_key.removesuffix(".npy")] if request.label_key else None
    names = asked or [f"{path.stem}_labels", *([pair[1]] if pair[0] == path.stem else []), "labels", "y"]
    for name in names:
        if name in arrays and name != path.stem:
            return name
    tried = ", ".join(f"{name}.npy" for name in dict.fromkeys(names))
    raise DataError(f"{path} has no labels beside it ({tried}). Name their file with --label-key.")


def _check_images(where: str, array: Npy) -> None:
    dtype, shape = array.header.dtype, array.header.shape
    wanted = "uint8 [N, height, width], [N, height, width, 1] or [N, height, width, 3]"
    received = f"{where} is {dtype} {list(shape)}; images must be {wanted}"
    is_image = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8:
        how = "if they are in [0, 1], save (255 * x).round().astype('uint8')" if dtype.kind == "f" else ""
        raise DataError(f"{received}. Convert them: {how or 'if they are in [0, 255], save x.astype(numpy.uint8)'}.")
    if not is_image:
        raise DataError(f"{received}. {_remedy(shape)}")
    if 0 in shape:
        raise DataError(f"{where} is {list(shape)}, which holds no images.")


def _remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[1] in (1, 3):
        return "Channels go last: save x.transpose(0, 2, 3, 1)."
    if len(shape) == 4 and shape[3] == 4:
        return "Drop the transparency: save x[..., :3]."
    return "Save them as x.reshape(N, height, width)." if len(shape) == 2 else "Save them in one of these shapes."


def _left_out(arrays: Mapping[str, Npy], pairs: list[Pair]) -> tuple[str, ...]:
    used = {key for pair in pairs for key in pair}
    others = [" and ".join(pair) for pair in _by_word(arrays)[0].values() if not used & set(pair)]
    return (f"{listed(others)} are left out",) if others else ()


def _received(arrays: Mapping[str, Any]) -> str:
    return listed(arrays) or "no arrays"
