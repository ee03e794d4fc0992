"""Arrays of images and labels: .npz archives, .npy files, and the embedded digits.

An .npz has Keras' keys x_train, y_train, x_test, y_test, MedMNIST's train_images, train_labels, ..., or one pair, such
as images and labels. `x_train.npy` is used with y_train.npy, x_test.npy, ... of its folder; any other NAME.npy has its
labels in NAME_labels.npy, labels.npy or y.npy.

Images are uint8 [N, height, width], [N, height, width, 1] or [N, height, width, 3], 0-255, and stay on the disk.
Labels are integers, text or one-hot. Integers index the names in `class_names` of the archive or in classes.txt beside
it, if either exists.

The digits are scikit-learn's: 1,797 images, 8 x 8 pixels, ten classes, from UCI "Optical Recognition of Handwritten
Digits" (Alpaydin & Kaynak 1998), CC BY 4.0.
"""

import importlib.util
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

from hyperrule.data.images import Indices, Pixels
from hyperrule.data.listing import (
    AS_NUMBERS,
    SPLIT_NAMES,
    DataRequest,
    Listing,
    Split,
    labels_of,
    ordered,
    split_by_name,
)
from hyperrule.data.sources.image_folder import CLASSES_FILE
from hyperrule.data.sources.npy import Npy, members
from hyperrule.errors import DataError, RunError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import did_you_mean, listed

IMAGES = ("x", "images", "image", "data")
LABELS = ("y", "labels", "label", "target", "targets")
CLASS_NAMES = ("class_names", "classes", "label_names", "labels_names", "target_names")
CONVENTIONS = "x_train, y_train, x_test, y_test; train_images, train_labels, ...; images, labels; x, y; data, target"
DAMAGE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError, RunError)
LARGEST = 2**53  # up to here float64 represents every integer
Pair = tuple[str, str]  # keys of images and of labels
Given = tuple[tuple[str, ...], str]  # class names, and the key or file that has them


def list_arrays(request: DataRequest, reporter: Reporter) -> Listing:
    """List all images in the order train, validation, test; ids are "train/000123", or "images/000123" without splits.

    Compressed images are unpacked once into the cache folder. Raises DataError for arrays that are missing, damaged,
    or of other shapes and types than the module docstring says.
    """
    path = Path(os.path.expanduser(request.dataset))
    with _damage_as_data_error(path):
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
    """Several arrays, indexed as one: each key of an archive is mapped into memory separately."""

    def __init__(self, arrays: Sequence[npt.NDArray[np.uint8]]) -> None:
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> npt.NDArray[np.uint8]:
        which = int(np.searchsorted(self.ends, number, "right"))
        image: npt.NDArray[np.uint8] = self.arrays[which][number - self.ends[which]]  # negative: counted from its end
        return image


@contextmanager
def _damage_as_data_error(path: Path) -> Iterator[None]:
    try:
        with os_errors_as(DataError, f"cannot read {path}"):
            yield
    except DAMAGE as error:
        why = str(error).splitlines()[0].rstrip(".") if str(error) else "it ends too early"
        raise DataError(f"cannot read the arrays in {path}: {why}.") from None


def _beside(file: Path) -> dict[str, Npy]:
    """Return the file and all other .npy files of its folder, by their names without suffix."""
    file.open("rb").close()
    return {other.stem: Npy(other) for other in sorted(file.parent.glob("*.npy"))} | {file.stem: Npy(file)}


def _pairs(path: Path, arrays: Mapping[str, Npy], request: DataRequest) -> tuple[dict[Split, str], list[Pair]]:
    """Return each split's name within the keys (empty without splits), and its pair of keys (or the only pair)."""
    whole, halves = _by_word(arrays)
    splits = [word for word in {**whole, **halves} if word.lower() in SPLIT_NAMES or word in request.splits.values()]
    if path.suffix.lower() == ".npy" and (request.label_key or _role(path.stem)[1] not in splits):
        return {}, [(path.stem, _labels_beside(path, arrays, request, whole))]
    if request.image_key or request.label_key:
        return {}, [_asked(path, arrays, request, whole.get(""))]
    if lonely := [halves[word] for word in halves if word in splits]:
        raise DataError(f"{path} has {lonely[0]} without matching images or labels. It has: {_received(arrays)}.")
    chosen = split_by_name([word for word in whole if word], request, str(path))
    if chosen:
        return chosen, [whole[word] for word in chosen.values()]
    if "" not in whole:
        raise DataError(
            f"{path} has no images and labels under known names ({CONVENTIONS}). It has: {_received(arrays)}. "
            "Name one pair with --image-key and --label-key."
        )
    return {}, [whole[""]]


def _by_word(arrays: Mapping[str, Npy]) -> tuple[dict[str, Pair], dict[str, str]]:
    """Return complete pairs of keys, and keys without a partner, by the rest of the key (a split, or nothing)."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for key in arrays:
        role, word = _role(key)
        if role is not None:
            (images if role in IMAGES else labels).setdefault(word, key)
    whole = {word: (key, labels[word]) for word, key in images.items() if word in labels}
    return whole, {word: key for word, key in (images | labels).items() if word not in whole}


def _role(key: str) -> tuple[str | None, str]:
    """Return the role of an array (a word for images or labels), and the rest of its key.

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
            raise DataError(f"{path}: name both arrays; {option} is missing. It has: {_received(arrays)}.")
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
    raise DataError(f"{path} has no labels beside it ({tried}). Name the file of labels with --label-key.")


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
        raise DataError(f"{where} is {list(shape)}: it holds no images.")


def _remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[1] in (1, 3):
        return "Channels go last: save x.transpose(0, 2, 3, 1)."
    if len(shape) == 4 and shape[3] == 4:
        return "Drop the alpha channel: save x[..., :3]."
    return "Save them as x.reshape(N, height, width)." if len(shape) == 2 else "Save them in one of these shapes."


def _left_out(arrays: Mapping[str, Npy], pairs: list[Pair]) -> tuple[str, ...]:
    used = {key for pair in pairs for key in pair}
    others = [" and ".join(pair) for pair in _by_word(arrays)[0].values() if not used & set(pair)]
    return (f"{listed(others)} are left out",) if others else ()


def _received(arrays: Mapping[str, Any]) -> str:
    return listed(arrays) or "no arrays"


def plain_labels(where: str, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert labels [N], [N, 1] or one-hot [N, classes] to int64 or str [N]; booleans become "false" and "true".

    Raises DataError for other shapes and types, several classes per image, and fractional, negative or empty labels.
    """
    flat = _flat(where, labels)
    if flat.dtype.kind == "b":
        return np.where(flat, "true", "false")
    if flat.dtype.kind == "S":
        flat = np.char.decode(flat, "utf-8")
    if flat.dtype.kind == "U":
        _refuse(where, flat, flat == "", "empty labels")
        return flat
    if flat.dtype.kind not in "iuf":
        raise DataError(f"{where} is {flat.dtype} {list(labels.shape)}; labels must be integers or text of shape [N].")
    _refuse(where, flat, ~np.isfinite(flat), "labels that are not numbers")
    _refuse(where, flat, flat != np.rint(flat), "fractions")
    _refuse(where, flat, flat < 0, "negative labels")
    _refuse(where, flat, flat > LARGEST, "labels that are too large")
    return flat.astype(np.int64)


def given_class_names(path: Path, arrays: Mapping[str, Npy]) -> Given | None:
    """Return the class names that integer labels index, if the data set has them."""
    file = path.with_name(CLASSES_FILE)
    if key := next((key for key in CLASS_NAMES if key in arrays), None):
        names, where = arrays[key].load().ravel().astype(str).tolist(), key
    elif file.is_file():
        names, where = file.read_text(encoding="utf-8-sig").splitlines(), CLASSES_FILE
    else:
        return None
    names = [name.strip() for name in names if name.strip()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where} of {path} repeats {listed(map(repr, repeated))}. It must name each class once.")
    return tuple(names), where


def class_labels(
    path: Path, labels: Sequence[npt.NDArray[Any]], given: Given | None
) -> tuple[tuple[str, ...], npt.NDArray[np.int32], str]:
    """Return the class names, all labels joined as int32 [N] indices into them, and a description of their order.

    Raises DataError if `given` does not cover the labels, or if some labels are integers and others text.
    """
    if len({array.dtype.kind for array in labels}) > 1:
        raise DataError(f"labels of {path} are integers in one split and text in another. Save them all the same way.")
    values, which = np.unique(labels[0] if len(labels) == 1 else np.concatenate(labels), return_inverse=True)
    are_text = values.dtype.kind == "U"
    if given is None:
        texts = [str(value) for value in values]
        class_names, order = ordered(texts) if are_text else (tuple(texts), AS_NUMBERS)
        return class_names, labels_of(texts, class_names)[which], order
    names, where = given
    known = set(names) if are_text else range(len(names))
    unknown = [str(value) for value in values.tolist() if value not in known]
    if unknown:
        raise DataError(f"{where} of {path} names {len(names)} classes, but labels also have {listed(unknown)}.")
    codes = labels_of(values.tolist(), names) if are_text else values.astype(np.int32)
    return names, codes[which], f"that of {where}"


def _flat(where: str, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if labels.ndim == 1:
        return labels
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all():
        several = labels.sum(axis=1) != 1
        _refuse(where, np.arange(len(labels)), several, "images of no class or of several")
        classes: Indices = labels.argmax(axis=1)
        return classes
    raise DataError(f"{where} is {labels.dtype} {list(labels.shape)}; labels must be integers or text [N], or one-hot.")


def _refuse(where: str, values: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], what: str) -> None:
    rows: Indices = np.flatnonzero(wrong)
    if len(rows):
        raise DataError(
            f"{where} has {len(rows)} {what}, the first at index {rows[0]} ({values[rows[0]]}). "
            "Every image must have one class: an integer from 0, or a name."
        )


def list_digits(request: DataRequest, reporter: Reporter) -> Listing:
    """List images "digits/0000" to "digits/1796", read from scikit-learn's data file: importing scikit-learn would take
    longer than everything else that `hyperrule plan` does."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data set 'digits' comes with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    table = np.loadtxt(file, delimiter=",", dtype=np.int32)
    grey = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)  # the file's values are 0-16
    return Listing(
        kind="digits",
        location=None,
        class_names=tuple(map(str, range(10))),
        ids=[f"digits/{number:04d}" for number in range(len(table))],
        labels=table[:, 64],
        contents=Pixels.of(grey.reshape(-1, 8, 8)),
        class_order="0 to 9",
        destroys_label={
            "flip": "a mirrored digit is no longer that digit",
            "crop": "a digit fills its image, so that a crop cuts strokes off",
        },
    )
