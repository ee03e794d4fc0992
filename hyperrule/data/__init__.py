"""Labelled images: `open_source` turns what the user typed into facts and examples."""

import os
from pathlib import Path

from hyperrule.data.dataset_info import DatasetInfo, Examples, Source, Split, SplitInfo
from hyperrule.data.digits import Digits
from hyperrule.data.image_folder import ImageFolder

__all__ = ["DatasetInfo", "Examples", "Source", "Split", "SplitInfo", "open_source"]


def open_source(dataset: str, split_seed: int = 0, skip_corrupt: bool = False) -> Source:
    """The data set called `dataset`: "digits", or the path of an image folder.

    Raises DataError, when its facts or examples are asked for, if the data cannot be used.
    """
    if dataset == "digits":
        return Digits(split_seed)
    return ImageFolder(Path(os.path.expanduser(dataset)), dataset, split_seed, skip_corrupt)
