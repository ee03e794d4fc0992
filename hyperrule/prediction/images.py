"""Labelled images of a data set that a classifier is judged by, and why some cannot be; no TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperrule.data import Listing, Split
from hyperrule.data.images import Contents
from hyperrule.data.inspection import UNREADABLE, opened, reason
from hyperrule.errors import DataError

BY_DEFAULT: tuple[Split, ...] = ("test", "validation", "train")  # the first that a data set has


@dataclass(frozen=True)
class LabelledImages:
    """Encoded images with the name of the class that each belongs to; `split` is None where they are not split."""

    name: str
    split: Split | None
    ids: Sequence[str]
    class_names: Sequence[str]
    contents: Contents


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
