"""Shards: large files that together hold a data set, each of one split; and the classes of their labels."""

import glob
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Indices
from hyperrule.data.listing import (
    SPLIT_NAMES,
    DataRequest,
    Split,
    are_integers,
    labels_of,
    ordered,
    spelled_twice,
    split_by_name,
)
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed, printable

RANGE_OR_CHOICE = re.compile(r"\{(\d{1,6})\.\.(\d{1,6})\}|\{([^{}]*,[^{}]*)\}")
ONE_OF_MANY = re.compile(r"(.*)-(\d{1,6})-of-(\d{1,6})(.*)")  # data.tfrecord-00000-of-00010
NAME_ENDING = re.compile(r"(\.(tar|tfrecords?|tfrec|gz))+(?=-\d+-of-|$)")
SHARD_NUMBER = re.compile(r"[-_.]\d+(-of-\d+)?$")
LABEL_CHARACTERS = 1000  # longer text is not a label


@dataclass(frozen=True)
class Shards:
    """Files in the order of their `names`, which are relative to `folder`.

    `splits` has the split of every file; `called` has each split's name in the data set, and is empty without splits.
    """

    folder: Path
    names: tuple[str, ...]
    splits: tuple[Split | None, ...]
    called: dict[Split, str]
    notes: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in self.names)

    def scanned(self, reporter: Reporter) -> Iterator[tuple[int, Path]]:
        """Yield the index of each file and the file; report progress."""
        with reporter.stage("index", len(self.names)) as report:
            for number, file in enumerate(self.files):
                yield number, file
                report(number + 1, "shards")

    def image_splits(self, which: npt.NDArray[np.int32]) -> dict[Split, Indices]:
        """Return the images of every split; `which` (int32 [n]) has each image's shard."""
        return {split: np.flatnonzero(np.isin(which, self._numbers(split))) for split in self.called}

    def origins(self) -> dict[Split, str]:
        return {split: f"{_shards(len(self._numbers(split)))} named {name}" for split, name in self.called.items()}

    def cost(self, part: str, images: int) -> str:
        """Describe what was read to index the images: a `part` ("headers of ") of the shards, or all ("")."""
        size = sum(file.stat().st_size for file in self.files)
        much = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
        return f"{part}{_shards(len(self.names))}, {much}, were read to index {images:,} images"

    def beside(self, names: Sequence[str]) -> Path | None:
        """Return the first file of one of these names in the folder of the shards, or None."""
        candidates = (folder / name for folder in (self.folder, self.files[0].parent) for name in names)
        return next(filter(Path.is_file, candidates), None)

    def _numbers(self, split: Split) -> list[int]:
        return [number for number, its in enumerate(self.splits) if its == split]


@dataclass(frozen=True)
class Classes:
    """Class names, `labels` int32 [n] that index them, and a description of their order."""

    names: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    order: str


def find_shards(request: DataRequest, named: re.Pattern[str], example: str) -> Shards:
    """Find the shards that the user typed: a file, a glob, braces, or a folder (and its sub-folders). Only files whose
    names match `named` are shards; `example` is such a name.

    A split is named by its sub-folder, or by a word in its shards' names ("train-0000.tar"). Raises DataError that
    names missing shards.
    """
    typed = os.path.abspath(os.path.expanduser(request.dataset))
    with os_errors_as(DataError, f"cannot read {printable(typed)}"):
        folder, names = _typed_shards(typed, named)
    if not names:
        received = os.listdir(typed) if os.path.isdir(typed) else []
        raise DataError(
            f"there is no shard in {printable(typed)}; shards have names such as {example}. "
            f"Received: {listed(sorted(map(printable, received))) or 'nothing'}."
        )
    called = {name: _split_name(name, request) for name in names}
    chosen = split_by_name(sorted(set(called.values())), request, folder)
    split_called = {name: split for split, name in chosen.items()}
    members = [name for name in names if not chosen or called[name] in split_called]
    left = [printable(name) for name in names if chosen and called[name] not in split_called]
    return Shards(
        Path(folder),
        tuple(members),
        tuple(split_called.get(called[name]) for name in members),
        chosen,
        (f"{_shards(len(left))} of no split left out: {listed(left)}",) if left else (),
    )


def classes_of(labels: Sequence[str], classes_file: Path | None) -> Classes:
    """Return the classes of labels: in numeric order if all are integers, else in the order of names as text.

    Line i of the `classes_file`, from 0, names class i; a number without images is not a class. Raises DataError if a
    number has no line or is written in two ways, and if a name is repeated or too long.
    """
    values = set(labels)
    if long := [value for value in values if len(value) > LABEL_CHARACTERS]:
        raise DataError(f"a label of {max(map(len, long)):,} characters is not a class name: {long[0][:30]}...")
    if twice := spelled_twice(list(values)):
        raise DataError(f"labels {listed(map(repr, twice))} write one number in two ways. Write it in one way.")
    names, order = ordered(list(values))
    indices = labels_of(labels, names)
    if classes_file is None or not are_integers(names):
        return Classes(names, indices, order)
    lines = _lines(classes_file)
    nameless = [number for number in names if not 0 <= int(number) < len(lines) or not lines[int(number)]]
    if nameless:
        raise DataError(
            f"{classes_file} has no name for label {listed(nameless)}: its lines name labels 0 to {len(lines) - 1}. "
            "If labels count from 1, add a line before the first."
        )
    used = tuple(lines[int(number)] for number in names)
    if repeated := [name for name, times in Counter(used).items() if times > 1]:
        raise DataError(f"{classes_file} repeats {listed(map(repr, repeated))}. Each class needs a unique name.")
    return Classes(used, indices, f"that of {classes_file.name}")


def _lines(file: Path) -> list[str]:
    with os_errors_as(DataError, f"cannot read {file}"):
        try:
            return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise DataError(f"{file} is not UTF-8 text.") from None


def _typed_shards(typed: str, named: re.Pattern[str]) -> tuple[str, list[str]]:
    """Return a folder and the sorted paths of the shards, relative to it."""
    if os.path.isdir(typed):
        folder = typed
        found = [path for below in ("*", "*/*") for path in glob.glob(os.path.join(glob.escape(folder), below))]
    else:
        patterns = [glob.escape(typed)] if os.path.exists(typed) else _expand_braces(typed)
        folder = os.path.commonpath([_fixed_part(pattern) for pattern in patterns])
        matches = {pattern: glob.glob(pattern) for pattern in patterns}
        if missing := [printable(pattern) for pattern in patterns if not matches[pattern]]:
            raise DataError(f"shards are missing ({len(missing)} of {len(patterns)}): {listed(missing)}.")
        found = [path for paths in matches.values() for path in paths]
    names = sorted({os.path.relpath(path, folder) for path in found if named.search(path) and os.path.isfile(path)})
    if os.path.isdir(typed) or glob.has_magic(typed):
        _check_complete(names)
    return folder, names


def _expand_braces(pattern: str) -> list[str]:
    """Expand braces as shells do.

    >>> _expand_braces("{train,test}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'test-08.tar']
    """
    if (braces := RANGE_OR_CHOICE.search(pattern)) is None:
        return [pattern]
    first, last, choices = braces.groups()
    words = choices.split(",") if choices else [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    tails = _expand_braces(pattern[braces.end() :])
    return [pattern[: braces.start()] + word + tail for word in words for tail in tails]


def _fixed_part(pattern: str) -> str:
    """Return the deepest folder that contains every match of a glob."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder


def _check_complete(names: Sequence[str]) -> None:
    """Raise DataError if names say "-of-00010" and not all ten exist."""
    numbers: dict[tuple[str, ...], set[int]] = {}
    for name in names:
        if part := ONE_OF_MANY.fullmatch(name):
            before, number, total, after = part.groups()
            numbers.setdefault((before, total, after), set()).add(int(number))
    for (before, total, after), there in numbers.items():
        missing = [
            f"{before}-{number:0{len(total)}}-of-{total}{after}" for number in range(int(total)) if number not in there
        ]
        if missing:
            raise DataError(
                f"{len(missing)} of {_shards(int(total))} are missing: {listed(map(printable, missing))}. "
                "Download them, or name those to use: 'data.tfrecord-{00000..00004}-of-00010'."
            )


def _split_name(name: str, request: DataRequest) -> str:
    """Return the name of a shard's split: its folder, its own name without the number, or a word of that name."""
    *folders, base = name.split(os.sep)
    series = SHARD_NUMBER.sub("", NAME_ENDING.sub("", base))
    words = [part for word in re.split(r"[-_. ]", series) for part in (word, word.rstrip("0123456789"))]
    asked = request.splits.values()
    for candidates in (folders, [series], words):
        found = {word for word in candidates if (word in asked if asked else word.lower() in SPLIT_NAMES)}
        if len(found) > 1:
            raise DataError(
                f"the name of shard {printable(name)} says {' and '.join(sorted(found))}. Name each split, "
                f"such as --train-split {shlex.quote(series)}"
            )
        if found:
            return found.pop()
    return folders[-1] if folders else series


def _shards(number: int) -> str:
    return f"{number:,} shard{'s' if number != 1 else ''}"
