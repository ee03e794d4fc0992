"""Labels that come as arrays: integers, text or one-hot, and the names that integers stand for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Indices
from hyperrule.data.listing import AS_NUMBERS, labels_of, ordered
from hyperrule.data.sources.arrays.npy import Npy
from hyperrule.data.sources.image_folder import CLASSES_FILE
from hyperrule.errors import DataError
from hyperrule.support.wording import listed

CLASS_NAMES = ("class_names", "classes", "label_names", "labels_names", "target_names")
LARGEST = 2**53  # what float64 tells apart; and int64 holds
Given = tuple[tuple[str, ...], str]  # names of classes, and where they are from


def plain_labels(where: str, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """int64 or str [N] of labels [N], [N, 1] or one-hot [N, classes]; booleans are classes "false" and "true".

    Raises DataError for other shapes and types, more than one class an image, fractions, negative and empty ones.
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
        raise DataError(f"{where} is {flat.dtype} {list(labels.shape)}; labels must be integers or text [N].")
    _refuse(where, flat, ~np.isfinite(flat), "labels that are no numbers")
    _refuse(where, flat, flat != np.rint(flat), "fractions")
    _refuse(where, flat, flat < 0, "negative labels")
    _refuse(where, flat, flat > LARGEST, "labels that are too large")
    return flat.astype(np.int64)


def given_class_names(path: Path, arrays: Mapping[str, Npy]) -> Given | None:
    """The names that integers stand for, if the data set tells."""
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
    """Class names, all labels one after another as int32 [N] indices into them, and whose order it is.

    Raises DataError if the given names do not cover the labels, or if labels are integers here and text there.
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
        raise DataError(f"{where} of {path} names {len(names)} classes, but labels go on to {listed(unknown)}.")
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
