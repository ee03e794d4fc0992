"""Labelled images: `open_source` turns what the user typed into facts and examples."""

from collections.abc import Mapping
from pathlib import Path

from hyperrule.data.images import Examples
from hyperrule.data.listing import Augmentation, DataRequest, DatasetInfo, Listing, Split, SplitInfo
from hyperrule.data.selection import Exclusions, read_exclusions
from hyperrule.data.source import Source
from hyperrule.data.sources.kinds import list_images
from hyperrule.support.progress import Reporter

__all__ = [
    "Augmentation",
    "DataRequest",
    "DatasetInfo",
    "Examples",
    "Listing",
    "Source",
    "Split",
    "SplitInfo",
    "list_images",
    "open_source",
]


def open_source(
    dataset: str,
    *,
    splits: Mapping[Split, str] | None = None,
    data_dir: Path | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    split_seed: int = 0,
    skip_corrupt: bool = False,
    strict: bool = False,
    exclude: Path | None = None,
    reporter: Reporter | None = None,
    fetch: bool = True,
) -> Source:
    """The data set that `dataset` is, in whatever it is stored ('hyperrule datasets' lists the kinds).

    Other arguments are those of `DataRequest` and `Source`; `exclude` is a file that `hyperrule check` wrote. With
    `fetch`, what is missing may be downloaded. Raises DataError, here or when facts or examples are asked for, if
    the data cannot be used.
    """
    reporter = reporter or Reporter()
    request = DataRequest(dataset, splits or {}, data_dir, image_key, label_key)
    return Source(
        name=dataset,
        listing=list_images(request, reporter, fetch),
        split_seed=split_seed,
        skip_corrupt=skip_corrupt,
        strict=strict,
        exclusions=Exclusions() if exclude is None else read_exclusions(exclude),
        reporter=reporter,
    )
