"""Images to predict or evaluate on; no TensorFlow.

`find_images` finds the files that a user names: paths, folders, globs, a list on stdin. `labelled_images` takes them
from a data set. `why_undecodable` explains a file that failed.
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
DEFAULT_SPLITS: tuple[Split, ...] = ("test", "validation", "train")  # the first that the data set has is taken


def find_images(given: Iterable[str | Path]) -> list[str]:
    """Return the image files that the user's arguments name, in the order given; those of a folder or a glob by name.

    A path that exists is taken literally. Otherwise "*", "?" and "[...]" make it a glob, in which "**" stands for any
    number of folders. "-" reads paths from stdin, one a line, or separated by NUL if there is a NUL in it; they are not
    globs, and missing files stay in the list, to be reported in their rows. In folders and globs, only files with the
    extension of an image count.

    Raises DataError for a path that does not exist, for a glob or a list without a match, and if there is no image at
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
    return f"In {where}, only these files count: {', '.join(sorted(EXTENSIONS))}."


def _images_at(path: Path) -> list[str]:
    if path.is_dir():
        return [str(image) for image in image_files(path)[0]]
    if not path.is_file():
        raise DataError(f"{printable(path)} is neither a file nor a folder.")  # a pipe would be read for ever
    return [str(path)]


def _matches(pattern: str, received: str) -> list[str]:
    """Return the images that a glob matches; `received` is the user's spelling of it. Raises DataError for none."""
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
    """Return the images below the folders `start` whose relative path matches the patterns, one for each part.

    `start` is a glob, "" for the working folder. Python's own "**" is not used: where links form a circle, it lists an
    image once for each way to it.
    """
    roots = [Path(root) for root in sorted(glob.glob(start))] if start else [Path()]
    return [
        str(image)
        for root in roots
        for image in image_files(root)[0]
        if _fits(image.parts[len(root.parts) :], patterns)
    ]


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match the patterns.

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
    """Return the paths listed on stdin. Raises DataError if there is none, or none that exists."""
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    lines = data.split(b"\0") if b"\0" in data else [line.rstrip(b"\r") for line in data.split(b"\n")]
    paths = [os.fsdecode(line) for line in lines if line]
    if not paths:
        raise DataError(
            "the list of images on stdin is empty. Give one path a line, for example with: find photos -name '*.jpg'"
        )
    if not any(map(os.path.exists, paths)):
        raise DataError(f"none of the files listed on stdin exists: {listed(map(printable, paths))}.")
    return [image for path in paths for image in (_images_at(Path(path)) if os.path.isdir(path) else [path])]


@dataclass(frozen=True)
class LabelledImages:
    """Encoded images with their ids and class names; `split` is None if the data set has no splits."""

    name: str
    split: Split | None
    ids: Sequence[str]
    class_names: Sequence[str]
    contents: EncodedImages


def labelled_images(name: str, listing: Listing, split: Split | None, exclusions: Exclusions) -> LabelledImages:
    """Return all images of a data set without splits, else those of `split`, but not the excluded ones.

    The default split is the first that exists of test, validation and train. Unlike for training, one class and one
    image are enough. Raises DataError if there is no such split, if none of its images is left, or for exclusions of
    another data set.
    """
    there = list(listing.splits)
    if split is not None and split not in there:
        has = f"only {' and '.join(there)}" if there else "no splits; leave --split out to take every image"
        raise DataError(f"{name} has no images for {split}: it has {has}.")
    chosen = split or next((split for split in DEFAULT_SPLITS if split in there), None)
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
    """Return the reason why TensorFlow could not decode the image at `index`."""
    try:
        encoded = contents[index]
    except OSError as error:
        return error.strerror or str(error)
    try:
        with opened(encoded) as image:
            image.load()
            return f"a kind of {image.format} that TensorFlow cannot read; save it as PNG"
    except UNREADABLE as error:
        return reason(encoded, error)
