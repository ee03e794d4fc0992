r"""A table of images: CSV, TSV, JSON lines or Parquet with a path, a label and, optionally, a split in every row.

Paths are relative to the table's folder, or absolute. If a path does not exist as written, it is tried again without
surrounding blanks and with / for \. Blanks around labels and splits are ignored. If all labels are integers (3, or
3.0, as programs write columns with gaps), classes are in numeric order. CSV does not distinguish the text "3" from the
number 3, so a CSV column that mixes numbers and words is refused; JSON and Parquet do, and keep text unchanged.
"""

import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperrule.data.images import Files, Indices
from hyperrule.data.listing import (
    DataRequest,
    Listing,
    Split,
    are_integers,
    labels_of,
    ordered,
    spelled_twice,
    split_by_name,
)
from hyperrule.data.sources.image_folder import EXTENSIONS
from hyperrule.data.sources.table import Table, open_table
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import NAMED_AT_MOST, did_you_mean, listed, printable

IMAGE_COLUMNS = ("path", "file", "filename", "file_name", "image", "filepath")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
SPLIT_COLUMN = "split"
NUMBER = re.compile(r"[+-]?[0-9]{1,99}(\.[0-9]*)?")
WHOLE = re.compile(r"\.0*$")
UNUSED = -1  # the split of rows that are left out
TEXT_OR_INTEGERS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_null,
)


@dataclass(frozen=True)
class Rows:
    """The used rows of a table: `rows` int64 [n], counted from 0."""

    table: Table
    rows: Indices

    def distinct(self, name: str, column: pa.ChunkedArray) -> tuple[npt.NDArray[np.object_], npt.NDArray[Any]]:
        """Return the distinct texts of the column in these rows, and the index of every row's text (integers [n]).

        Raises DataError for empty text and for types that `as_text` refuses.
        """
        texts, which = distinct(as_text(column, f"column {name!r} of {self.table.path}"))
        if len(self.rows) < len(which):
            used, which = np.unique(which[self.rows], return_inverse=True)
            texts = texts[used]
        empty = np.flatnonzero(np.array([not text.strip() for text in texts], np.bool_)[which])
        if len(empty):
            raise DataError(
                f"column {name!r} of {self.table.path} is empty in {self.numbered(empty)}. Every image needs a path "
                "and a label: fill them in, or delete these rows."
            )
        return texts, which

    def numbered(self, members: Indices) -> str:
        """Name the rows as the user counts them: "row 2, 3, 4, 5, 6 and 2 more"."""
        return f"row {listed([*map(str, self.numbers(members[:NAMED_AT_MOST])), *members[NAMED_AT_MOST:]])}"

    def numbers(self, members: Indices) -> Indices:
        return self.table.numbers(self.rows[members])


def as_text(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Convert the column to large_string: whole floats are written as integers, NaN and null as "".

    Raises DataError for fractions, for types other than text and numbers, and for text that is not UTF-8.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            column = column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise DataError(f"{where} holds fractions ({column.type}). A class is a name or an integer.") from None
    if not any(is_known(column.type) for is_known in TEXT_OR_INTEGERS):
        raise DataError(f"{where} holds {column.type}. It must hold text or integers, one per image.")
    text = column.cast(pa.large_string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        raise DataError(f"{where} holds text that is not UTF-8. Save it in UTF-8.") from None
    return text.fill_null("") if text.null_count else text


def distinct(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.object_], npt.NDArray[Any]]:
    """Return the distinct texts in order of first occurrence, and the index of every row's text (int32 [n])."""
    encoded = column.dictionary_encode().combine_chunks()
    pa.default_memory_pool().release_unused()  # 100 MB for a million paths, which Arrow would keep
    # Not to_numpy(), which imports pandas if installed: half a second and 30 MB.
    return np.array(encoded.dictionary.to_pylist(), object), np.from_dlpack(encoded.indices)


def list_manifest(request: DataRequest, reporter: Reporter) -> Listing:
    """List every row whose split is used, in table order; ids are the paths as written.

    Raises DataError if the table cannot be read, if columns, paths, labels or files are missing, and if it is unclear
    whether labels are numbers or names.
    """
    path = Path(os.path.expanduser(request.dataset))
    with os_errors_as(DataError, f"cannot read {path}"):
        table = open_table(path)
        image, label, split = _columns(table, request)
        columns = _read(table, [image, label, *split])
        chosen, splits, left_out = _splits(table, columns, split, request)
        rows = Rows(table, np.flatnonzero(splits != UNUSED))
        splits = splits[rows.rows]
        class_names, labels, order = _classes(rows, label, columns.pop(label))
        paths, which = rows.distinct(image, columns.pop(image))
        files, mended = _files(rows, image, paths, which)
        ids, repeated = _ids(rows, paths, which, labels, splits)
    return Listing(
        kind="manifest",
        location=path.resolve(),
        class_names=class_names,
        ids=ids,
        labels=labels,
        contents=Files(path.resolve().parent, files[which]),
        splits={name: np.flatnonzero(splits == number) for number, name in enumerate(chosen)},
        origins={name: f"rows of {SPLIT_COLUMN} {value}" for name, value in chosen.items()},
        class_order=order,
        notes=tuple(filter(None, (left_out, mended, repeated))),
    )


def _read(table: Table, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Return the columns separately, so that each can be freed after use: the paths take most of the memory."""
    columns = table.read(names)
    pa.default_memory_pool().release_unused()
    if not columns.num_rows:
        raise DataError(f"{table.path} has no rows{'' if table.typed else ' below its header'}.")
    return dict(zip(names, columns.columns, strict=True))


def _columns(table: Table, request: DataRequest) -> tuple[str, str, list[str]]:
    """Return the names of the columns of paths, of labels and, if it exists, of splits (at most one)."""
    names = table.names
    if not names:
        raise DataError(f"{table.path} is empty. It must have columns {IMAGE_COLUMNS[0]} and {LABEL_COLUMNS[0]}.")
    if not table.typed and any(Path(name).suffix.lower() in EXTENSIONS for name in names):
        header = f"{IMAGE_COLUMNS[0]},{LABEL_COLUMNS[0]}"
        raise DataError(f"{table.path} has no header: its first row is {listed(names)}. Add {header!r} above it.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{table.path} has more than one column {listed(map(repr, twice))}. Rename all but one.")
    image = _column(table, request.image_key, IMAGE_COLUMNS, "paths", "--image-key")
    label = _column(table, request.label_key, LABEL_COLUMNS, "labels", "--label-key")
    split = [name for name in names if name.lower() == SPLIT_COLUMN and name not in (image, label)]
    if request.splits and not split:
        raise DataError(f"{table.path} has no column {SPLIT_COLUMN!r} to choose from. It has: {listed(names)}.")
    return image, label, split[:1]


def _column(table: Table, asked: str | None, usual: Sequence[str], what: str, option: str) -> str:
    has = f"It has: {listed(map(repr, table.names))}."
    if asked is not None:
        if asked not in table.names:
            raise DataError(f"{table.path} has no column {asked!r} ({option}). {has}{did_you_mean(asked, table.names)}")
        return asked
    for name in usual:
        if found := next((each for each in table.names if each.lower() == name), None):
            return found
    raise DataError(f"{table.path} has no column of {what} ({', '.join(usual)}). {has} Name it with {option}.")


def _splits(
    table: Table, columns: dict[str, pa.ChunkedArray], split: list[str], request: DataRequest
) -> tuple[dict[Split, str], npt.NDArray[np.int8], str]:
    """Return the name of each split in the table, every row's split (its index, or UNUSED), and a note on unused rows.

    All rows have split 0 if the table has no splits.
    """
    if not split:
        return {}, np.zeros(len(next(iter(columns.values()))), np.int8), ""
    where = f"column {split[0]!r} of {table.path}"
    texts, which = distinct(as_text(columns.pop(split[0]), where))
    names = [text.strip() for text in texts]
    chosen = split_by_name(list(dict.fromkeys(names)), request, where)
    if not chosen:
        raise DataError(
            f"{where} has no value such as train, validation or test. It has: {listed(map(repr, names))}. "
            "Name the splits, as in --train-split NAME."
        )
    number = {name: number for number, name in enumerate(chosen.values())}
    splits = np.array([number.get(name, UNUSED) for name in names], np.int8)[which]
    unused = int((splits == UNUSED).sum())
    others = listed(repr(name) for name in names if name not in number)
    return chosen, splits, f"{unused} rows of {split[0]} {others} are left out" if unused else ""


def _classes(rows: Rows, name: str, column: pa.ChunkedArray) -> tuple[tuple[str, ...], npt.NDArray[np.int32], str]:
    """Return the class names, the labels (int32 [n], indices into them), and a description of their order."""
    texts, which = rows.distinct(name, column)
    written = [text.strip() for text in texts]
    names = written if rows.table.typed else _untyped(rows, name, written, which)
    class_names, order = ordered(list(dict.fromkeys(names)))
    if twice := spelled_twice(class_names):
        raise DataError(
            f"column {name!r} of {rows.table.path} writes a number in two ways: {listed(map(repr, twice))}. "
            "Write every class in one way."
        )
    return class_names, labels_of(names, class_names)[which], order


def _untyped(rows: Rows, column: str, written: list[str], which: npt.NDArray[Any]) -> list[str]:
    """Return the class names of text in which "3" may be a number. Raises DataError if that is unclear."""
    numeric = np.array([NUMBER.fullmatch(text) is not None for text in written])[which]
    if not numeric.any():
        return written

    def such_as(kind: str, members: Indices) -> str:
        return f"{kind} such as {reprlib.repr(written[which[members[0]]])} ({rows.numbered(members)})"

    if not numeric.all():
        both = [such_as("numbers", np.flatnonzero(numeric)), such_as("words", np.flatnonzero(~numeric))]
        raise DataError(
            f"column {column!r} of {rows.table.path} mixes {' and '.join(both)}. Write all classes as integers or all "
            "as words; if the numbers are class names, save the table as .jsonl with all labels in quotes."
        )
    names = [WHOLE.sub("", text) for text in written]
    fractions = np.array([not are_integers([name]) for name in names])[which]
    if fractions.any():
        said = such_as("fractions", np.flatnonzero(fractions))
        raise DataError(f"column {column!r} of {rows.table.path} holds {said}. A class is a name or an integer.")
    return names


def _files(
    rows: Rows, column: str, paths: npt.NDArray[np.object_], which: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.object_], str]:
    """Return the paths at which the files exist, and a note on how many differ from `paths`, as written.

    Row i has path `paths[which[i]]`. Raises DataError if files are missing.
    """
    folder = rows.table.path.resolve().parent
    missing = absent(folder, paths)
    mended = paths.copy()
    mended[missing] = [path.strip().replace("\\", "/") for path in paths[missing]]
    missing_still = missing[absent(folder, mended[missing])]
    members = np.flatnonzero(np.isin(which, missing_still))
    if len(members):
        first = members[:NAMED_AT_MOST]
        said = [f"row {row}: {paths[which[i]]}" for i, row in zip(first, rows.numbers(first), strict=True)]
        folders = sum(_is_folder(folder, path) for path in mended[missing_still[:NAMED_AT_MOST]])
        raise DataError(
            f"{len(members)} of {len(which)} files named in column {column!r} of {rows.table.path} "
            f"{'are folders or ' if folders else ''}do not exist: {listed([*said, *members[NAMED_AT_MOST:]])}. "
            f"Paths are relative to {folder}, or absolute."
        )
    return mended, f"{len(missing)} paths are read without surrounding blanks and with / for \\" * bool(len(missing))


def _is_folder(folder: Path, path: str) -> bool:
    return "\0" not in path and Path(folder, path).is_dir()


def _ids(
    rows: Rows,
    paths: npt.NDArray[np.object_],
    which: npt.NDArray[Any],
    labels: npt.NDArray[np.int32],
    splits: npt.NDArray[np.int8],
) -> tuple[list[str], str]:
    """Return the printable paths, a repeated one with its row number, and a note on rows that repeat an earlier one."""
    ids: list[str] = np.array([printable(path) for path in paths], dtype=object)[which].tolist()
    if len(paths) == len(which):
        return ids, ""
    later = np.delete(np.arange(len(which)), np.unique(which, return_index=True)[1])
    for member, number in zip(later, rows.numbers(later), strict=True):
        ids[member] += f" (row {number})"
    of_label = which.astype(np.int64) * (int(labels.max()) + 1) + labels
    repeated = len(which) - len(np.unique(of_label * 3 + splits))
    return ids, f"{repeated} rows repeat an earlier one (path, label and split)" if repeated else ""


def absent(folder: Path, paths: npt.NDArray[np.object_]) -> Indices:
    """Return the indices, ascending, of the paths (str [n], relative to `folder` or absolute) that are not files.

    Lists every folder once: checking a million files one by one takes far longer. Raises OSError for folders that
    cannot be listed.
    """
    if not len(paths):
        return np.zeros(0, np.int64)
    numbers: dict[str, int] = {}
    parents = (numbers.setdefault(os.path.dirname(path), len(numbers)) for path in paths)
    which = np.fromiter(parents, np.int32, len(paths))
    ends = np.cumsum(np.bincount(which, minlength=len(numbers)))[:-1]
    by_parent = np.split(np.argsort(which, kind="stable"), ends)
    found = np.zeros(len(paths), np.bool_)
    for parent, members in zip(numbers, by_parent, strict=True):
        files = _files_in(Path(folder, parent))
        found[members] = [os.path.basename(path) in files for path in paths[members]]
    return np.flatnonzero(~found)


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path with a zero byte
        return set()
