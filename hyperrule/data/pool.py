"""Images without their labels: the training parts of several data sets as one pool, for distillation."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hyperrule.data.contents import Contents, Indices, joined
from hyperrule.data.examples import Examples
from hyperrule.data.inspection import Facts, inspect
from hyperrule.data.listing import DataRequest
from hyperrule.data.sources.image_folder import list_unlabelled
from hyperrule.data.sources.kinds import kind_of, list_images
from hyperrule.errors import DataError
from hyperrule.progress import Reporter
from hyperrule.wording import listed

HELD_OUT = 0.02  # of all images, by their hash: equal ones go together, whatever data set they are in
MOST_HELD_OUT = 1000  # images that agreement is measured on


class PoolPart(BaseModel):
    """One data set of a pool: `examples` are for training, `held_out` never are. `sha256` is that of all hashes."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    location: str | None
    examples: int
    held_out: int
    sha256: str
    skipped: dict[str, str] = {}


class PoolInfo(BaseModel):
    """Facts of a pool; `height` and `width` (pixels) are those of the image with the median area."""

    model_config = ConfigDict(frozen=True)

    parts: tuple[PoolPart, ...]
    height: int
    width: int

    @property
    def examples(self) -> int:
        return sum(part.examples for part in self.parts)

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(part.sha256 for part in self.parts).encode()).hexdigest()


@dataclass(frozen=True)
class Pool:
    """`labels` of the examples are numbers of data sets; `class_names` are what the held-out images are called in
    theirs, empty where it has no classes."""

    info: PoolInfo
    training: Examples
    held_out: Examples
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """The usable images of one data set, in the order of their hashes."""

    info: PoolPart
    ids: list[str]
    class_names: list[str]
    contents: Contents
    facts: Facts
    held_out: npt.NDArray[np.bool_]


def open_pool(
    datasets: Sequence[str], data_dir: Path | None, skip_corrupt: bool, reporter: Reporter, fetch: bool = True
) -> Pool:
    """The training images of all data sets, all images where one is not split; folders need no classes.

    2 % are held out, at most 1,000. With `skip_corrupt`, images are decoded and those that fail are left out.
    Raises DataError for a data set that cannot be used, and for images that cannot be read.
    """
    parts = [_open(dataset, data_dir, skip_corrupt, reporter, fetch) for dataset in datasets]
    which = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.ids) for part in parts])
    ids = [f"{part.info.name}/{name}" if len(parts) > 1 else name for part in parts for name in part.ids]
    everything = Examples(ids, which, joined([part.contents for part in parts]))
    facts = np.concatenate([part.facts for part in parts])
    is_held_out = np.concatenate([part.held_out for part in parts])
    class_names = [name for part in parts for name in part.class_names]
    training, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    if not len(training) or not len(held_out):
        raise DataError(f"{listed(datasets)}: {len(ids)} images are too few to hold 2 % of them out. Give more.")
    fewest_first = held_out[np.argsort(_fractions(facts[held_out]), kind="stable")]
    measured = np.sort(fewest_first[:MOST_HELD_OUT])
    areas = facts["height"].astype(np.int64) * facts["width"]
    median = facts[np.argsort(areas, kind="stable")[len(areas) // 2]]
    return Pool(
        PoolInfo(parts=tuple(part.info for part in parts), height=int(median["height"]), width=int(median["width"])),
        everything.take(training),
        everything.take(measured),
        tuple(class_names[index] for index in measured),
    )


def _open(dataset: str, data_dir: Path | None, skip_corrupt: bool, reporter: Reporter, fetch: bool) -> _Part:
    kind = kind_of(dataset)
    request = DataRequest(dataset, data_dir=data_dir if kind.fetches else None)
    listing = (kind.name == "image folder" and list_unlabelled(request)) or list_images(request, reporter, fetch)
    if listing.splits and "train" not in listing.splits:
        raise DataError(f"{dataset} has nothing to train on, only {listed(listing.origins.values())}.")
    members = listing.splits.get("train", np.arange(len(listing.labels)))
    facts, problems = inspect(listing.contents.take(members), skip_corrupt, reporter)
    told = {listing.ids[members[index]]: problem for index, problem in problems.items()}
    if told and not skip_corrupt:
        said = listed(f"{name} ({problem})" for name, problem in told.items())
        raise DataError(
            f"{len(told)} of {len(members)} files of {dataset} cannot be read as images: {said}. "
            "Repair or remove them, or leave them out with --skip-corrupt."
        )
    good = np.setdiff1d(np.arange(len(members)), list(problems), assume_unique=True)
    good = good[np.argsort(_fractions(facts[good]), kind="stable")]
    held_out = _fractions(facts[good]) < HELD_OUT
    chosen: Indices = members[good]
    digest = hashlib.sha256(np.ascontiguousarray(facts["sha256"][good]).tobytes()).hexdigest()
    named = len(listing.class_names) > 1
    return _Part(
        PoolPart(
            name=Path(os.path.expanduser(dataset)).name,
            kind=listing.kind,
            location=None if listing.location is None else str(listing.location),
            examples=int(np.sum(~held_out)),
            held_out=int(np.sum(held_out)),
            sha256=digest,
            skipped=told,
        ),
        [listing.ids[index] for index in chosen],
        [listing.class_names[label] if named else "" for label in listing.labels[chosen]],
        listing.contents.take(chosen),
        facts[good],
        held_out,
    )


def _fractions(facts: Facts) -> npt.NDArray[np.float64]:
    """The first 8 bytes of the hashes, from 0 to 1."""
    first = np.ascontiguousarray(facts["sha256"][:, :8]).view(">u8")[:, 0]
    return first / 2.0**64
