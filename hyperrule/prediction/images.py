"""Files that a user names as images: paths, folders, globs, and a list on stdin; no TensorFlow.

Labelled images of a data set that a classifier is judged by, and why some cannot be; no TensorFlow.
"""

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from hyperrule.data.images import EncodedImages
from hyperrule.data.inspection import UNREADABLE, opened, reason
from hyperrule.data.listing import Listing, Split
from hyperrule.data.selection import Exclusions
from hyperrule.data.sources.image_folder import EXTENSIONS, image_files
from hyperrule.errors import DataError
from hyperrule.support.wording import listed, printable

STDIN = "-"
ANY_FOLDERS = "**"


def find_images(given: Iterable[str | Path]) -> list[str]:
    """Paths of the files that are meant, in the order given; those of a folder or a glob by name.

    What exists is taken as it is called. Else "*", "?" and "[...]" make a glob, in which "**" stands for any number of
    folders. "-" is a list on stdin, a path a line, or ended by NUL if there is a NUL in it: no globs, and what is not
    there stays, to be told in its row. Of folders and globs, only files with the extension of an image count.

    Raises DataError for a path that does not exist, a glob or a list that finds nothing, and if there is no image at
    all; OSError for a folder that cannot be read.
    """
    received = [os.fspath(path) for path in given]
    found: list[str] = []
    missing: list[str] = []
    for name in received:
        path = Path(os.path.expanduser(name))
        if name == STDIN:
            found += _listed_on_stdin()
        elif path.exists():
            found += _images_at(path)
        elif glob.has_magic(str(path)):
            found += _matches(str(path), name)
        else:
            missing.append(printable(path))
    if missing:
        raise DataError(f"no such image or folder: {listed(missing)}.")
    if not found:
        said = f"no image in {listed(map(printable, received))}" if received else "nothing"
        raise DataError(f"give images, or folders with them. Received: {said}. {_which_count('folders')}")
    return found


def _which_count(where: str) -> str:
    return f"Of {where}, these files count: {', '.join(sorted(EXTENSIONS))}."


def _images_at(path: Path) -> list[str]:
    if path.is_dir():
        return [str(image) for image in image_files(path)[0]]
    if not path.is_file():
        raise DataError(f"{printable(path)} is neither a file nor a folder.")  # a pipe would be read for ever
    return [str(path)]


def _matches(pattern: str, received: str) -> list[str]:
    """What a search of the folders would find, and fits."""
    parts = pattern.split(os.sep)
    if ANY_FOLDERS in parts:
        start = parts.index(ANY_FOLDERS)
        found = _below(os.sep.join([*parts[:start], ""]), [part for part in parts[start:] if part])
    else:
        paths = [Path(path) for path in sorted(glob.glob(pattern))]
        taken = (path for path in paths if path.is_dir() or (path.is_file() and path.suffix.lower() in EXTENSIONS))
        found = [image for path in taken for image in _images_at(path)]
    if not found:
        raise DataError(f"no image matches {printable(received)!r}. {_which_count('globs and folders')}")
    return found


def _below(start: str, patterns: list[str]) -> list[str]:
    """Images in the folders `start` (a glob, "" for here) whose path from there on fits the patterns, one a part.

    Not glob's own "**", which lists an image once for each way to it where links lead in a circle.
    """
    roots = [Path(root) for root in sorted(glob.glob(start))] if start else [Path()]
    return [
        str(image)
        for root in roots
        for image in image_files(root)[0]
        if _fits(image.parts[len(root.parts) :], patterns)
    ]


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """
    >>> [_fits(path.split("/"), ["**", "a*", "*.jpg"]) for path in ("ab/1.jpg", "x/y/a/1.jpg", "a/x/1.jpg", "1.jpg")]
    [True, True, False, False]
    """
    if not patterns:
        return not parts
    first, *others = patterns
    if first == ANY_FOLDERS:
        return not others or any(_fits(parts[start:], others) for start in range(len(parts)))
    return len(parts) > 0 and fnmatchcase(parts[0], first) and _fits(parts[1:], others)


def _listed_on_stdin() -> list[str]:
    """Raises DataError if nothing is listed, or nothing of it is there."""
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    lines = data.split(b"\0") if b"\0" in data else [line.rstrip(b"\r") for line in data.split(b"\n")]
    paths = [os.fsdecode(line) for line in lines if line]
    if not paths:
        raise DataError(
            "the list of images on stdin is empty. Give a path a line, such as by: find photos -name '*.jpg'"
        )
    if not any(map(os.path.exists, paths)):
        raise DataError(f"no file that stdin lists exists: {listed(map(printable, paths))}.")
    return [image for path in paths for image in (_images_at(Path(path)) if os.path.isdir(path) else [path])]


BY_DEFAULT: tuple[Split, ...] = ("test", "validation", "train")  # the first that a data set has


@dataclass(frozen=True)
class LabelledImages:
    """Encoded images with the name of the class that each belongs to; `split` is None where they are not split."""

    name: str
    split: Split | None
    ids: Sequence[str]
    class_names: Sequence[str]
    contents: EncodedImages


def labelled_images(name: str, listing: Listing, split: Split | None, exclusions: Exclusions) -> LabelledImages:
    """All images of a data set that is not split, else those of `split`, by default of the first of test, validation
    and train that there is; without the excluded ones.

    Unlike for training, one class is enough, and one image. Raises DataError if there is no such split, if none of its
    images is left, or for exclusions of another data set.
    """
    there = list(listing.splits)
    if split is not None and split not in there:
        has = f"only {' and '.join(there)}" if there else "no splits; leave --split out to take every image"
        raise DataError(f"{name} has no images for {split}: it has {has}.")
    chosen = split or next((split for split in BY_DEFAULT if split in there), None)
    everything = np.arange(len(listing.labels)) if chosen is None else listing.splits[chosen]
    members = exclusions.remaining(everything, listing.ids)
    if not len(members):
        raise DataError(f"{exclusions.origin} leaves no image of {name}{f' for {chosen}' if chosen else ''}.")
    return LabelledImages(
        name,
        chosen,
        [listing.ids[index] for index in members],
        [listing.class_names[label] for label in listing.labels[members]],
        listing.contents.take(members),
    )


def why_undecodable(contents: EncodedImages, index: int) -> str:
    """What is wrong with an image that TensorFlow has not decoded."""
    try:
        encoded = contents[index]
    except OSError as error:
        return error.strerror or str(error)
    try:
        with opened(encoded) as image:
            image.load()
            return f"a kind of {image.format} that TensorFlow does not read; save it as PNG"
    except UNREADABLE as error:
        return reason(encoded, error)
