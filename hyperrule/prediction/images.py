"""Images that a classifier is given: files on the command line, labelled ones of a data set; no TensorFlow."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperrule.data import Listing, Split
from hyperrule.data.contents import Contents
from hyperrule.data.inspection import UNREADABLE, opened, reason
from hyperrule.data.sources.image_folder import EXTENSIONS, image_files
from hyperrule.errors import DataError
from hyperrule.wording import listed, printable

BY_DEFAULT: tuple[Split, ...] = ("test", "validation", "train")  # the first that a data set has


@dataclass(frozen=True)
class LabelledImages:
    """Encoded images with the name of the class that each belongs to; `split` is None where they are not split."""

    name: str
    split: Split | None
    ids: Sequence[str]
    class_names: Sequence[str]
    contents: Contents


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files among the paths, and all image files in the folders, by name. Raises DataError if there is no image
    at all or a path does not exist."""
    given = list(paths)
    if missing := [printable(path) for path in given if not path.exists()]:
        raise DataError(f"no such image or folder: {listed(missing)}.")
    found = [image for path in given for image in (image_files(path)[0] if path.is_dir() else [path])]
    if not found:
        received = f"no image in {listed(map(printable, given))}" if given else "nothing"
        raise DataError(
            f"give images, or folders with them. Received: {received}. "
            f"Of folders, these files count: {', '.join(sorted(EXTENSIONS))}."
        )
    return found


def labelled_images(name: str, listing: Listing, split: Split | None) -> LabelledImages:
    """All images of a data set that is not split, else those of `split`, by default of the first of test, validation
    and train that there is.

    Unlike for training, one class is enough, and one image. Raises DataError if there is no such split.
    """
    there = list(listing.splits)
    if split is not None and split not in there:
        has = f"only {' and '.join(there)}" if there else "no splits; leave --split out to take every image"
        raise DataError(f"{name} has no images for {split}: it has {has}.")
    chosen = split or next((split for split in BY_DEFAULT if split in there), None)
    members = np.arange(len(listing.labels)) if chosen is None else listing.splits[chosen]
    return LabelledImages(
        name,
        chosen,
        [listing.ids[index] for index in members],
        [listing.class_names[label] for label in listing.labels[members]],
        listing.contents.take(members),
    )


def why_undecodable(contents: Contents, index: int) -> str:
    """What is wrong with an image that TensorFlow has not decoded."""
    encoded = b""
    try:
        encoded = contents[index]
        with opened(encoded) as image:
            image.load()
            return f"a kind of {image.format} that TensorFlow does not read; save it as PNG"
    except UNREADABLE as error:
        return reason(encoded, error)
