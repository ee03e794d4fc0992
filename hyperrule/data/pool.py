"""Images without their labels: the training parts of several data sets as one pool, for distillation."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hyperrule.data.images import EncodedImages, Examples, Indices, joined
from hyperrule.data.inspection import Facts, Problems, inspect
from hyperrule.data.listing import DataRequest, Listing
from hyperrule.data.source import Source
from hyperrule.data.sources.image_folder import list_unlabelled
from hyperrule.data.sources.kinds import KINDS, kind_of, list_images
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed

HELD_OUT = 0.02  # of all images, by their hash: equal ones go together, whatever data set they are in
MOST_HELD_OUT = 1000  # more would only be lost for training
LEAST_HELD_OUT = 20  # or a fifth of a pool that is as small as that


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

    name: str
    listing: Listing
    ids: list[str]
    class_names: list[str]
    contents: EncodedImages
    facts: Facts
    skipped: dict[str, str]

    def info(self, held_out: npt.NDArray[np.bool_]) -> PoolPart:
        return PoolPart(
            name=self.name,
            kind=self.listing.kind,
            location=None if self.listing.location is None else str(self.listing.location),
            examples=int(np.sum(~held_out)),
            held_out=int(np.sum(held_out)),
            sha256=hashlib.sha256(np.ascontiguousarray(self.facts["sha256"]).tobytes()).hexdigest(),
            skipped=self.skipped,
        )


def open_pool(
    datasets: Sequence[str],
    data_dir: Path | None,
    split_seed: int,
    skip_corrupt: bool,
    reporter: Reporter,
    fetch: bool = True,
) -> Pool:
    """The training images of all data sets. Of one with classes but without splits, what `finetune` would hold out for
    testing is left out; a folder needs no classes.

    2 % are held out, at least 20 (or a fifth) and at most 1,000. With `skip_corrupt`, images are decoded and those that
    fail are left out. Raises DataError for a data set that cannot be used, and for images that cannot be read.
    """
    if data_dir is not None and not any(kind_of(dataset).fetches for dataset in datasets):
        takers = " and ".join(kind.name for kind in KINDS.values() if kind.fetches)
        raise DataError(f"--data-dir means nothing for {listed(datasets)}: it is for {takers}. Leave it out.")
    names = _told_apart(datasets)
    parts = [
        _open(name, dataset, data_dir, split_seed, skip_corrupt, reporter, fetch)
        for name, dataset in zip(names, datasets, strict=True)
    ]
    fractions = np.concatenate([_fractions(part.facts) for part in parts])
    is_held_out = fractions < _threshold(fractions)
    ends = np.cumsum([len(part.ids) for part in parts])[:-1]
    infos = [part.info(held_out) for part, held_out in zip(parts, np.split(is_held_out, ends), strict=True)]
    if not is_held_out.any():
        raise DataError(f"one image is not enough to train on and to hold another out. Received: {listed(datasets)}.")
    if empty := [info.name for info in infos if not info.examples]:
        raise DataError(f"no image is left to train on in {listed(empty)}. Give more images, or leave it out.")
    which = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.ids) for part in parts])
    ids = [f"{part.name}/{name}" if len(parts) > 1 else name for part in parts for name in part.ids]
    everything = Examples(ids, which, joined([part.contents for part in parts]))
    class_names = [name for part in parts for name in part.class_names]
    held_out = np.flatnonzero(is_held_out)
    facts = np.concatenate([part.facts[["height", "width"]] for part in parts])
    areas = facts["height"].astype(np.int64) * facts["width"]
    median = facts[np.argsort(areas, kind="stable")[len(areas) // 2]]
    return Pool(
        PoolInfo(parts=tuple(infos), height=int(median["height"]), width=int(median["width"])),
        everything.take(np.flatnonzero(~is_held_out)),
        everything.take(held_out),
        tuple(class_names[index] for index in held_out),
    )


def _fractions(facts: Facts) -> npt.NDArray[np.float64]:
    """The first 8 bytes of the hashes, from 0 to 1."""
    first = np.ascontiguousarray(facts["sha256"][:, :8]).view(">u8")[:, 0]
    return first / 2.0**64


def _threshold(fractions: npt.NDArray[np.float64]) -> float:
    """Images whose hash is below are held out."""
    in_order, count = np.sort(fractions), len(fractions)
    least = in_order[min(max(1, min(LEAST_HELD_OUT, count // 5)), count - 1)]
    most = in_order[min(MOST_HELD_OUT, count - 1)]
    return float(min(max(HELD_OUT, least), most))


def _told_apart(datasets: Sequence[str]) -> list[str]:
    """The last part of each path; the whole, where two would be called the same."""
    names = [Path(os.path.abspath(os.path.expanduser(dataset))).name for dataset in datasets]
    return [
        name if names.count(name) == 1 else dataset.strip("/") for name, dataset in zip(names, datasets, strict=True)
    ]


def _open(
    name: str,
    dataset: str,
    data_dir: Path | None,
    split_seed: int,
    skip_corrupt: bool,
    reporter: Reporter,
    fetch: bool,
) -> _Part:
    kind = kind_of(dataset)
    request = DataRequest(dataset, data_dir=data_dir if kind.fetches else None)
    listing = (kind.name == "image folder" and list_unlabelled(request)) or list_images(request, reporter, fetch)
    if listing.splits and "train" not in listing.splits:
        raise DataError(f"{dataset} has nothing to train on, only {listed(listing.origins.values())}.")
    members, facts, problems = _trained_on(name, listing, split_seed, skip_corrupt, reporter)
    told = {listing.ids[index]: problem for index, problem in problems.items()}
    if told and not skip_corrupt:
        said = listed(f"{image} ({problem})" for image, problem in told.items())
        raise DataError(
            f"{len(told)} of the files of {dataset} cannot be read as images: {said}. "
            "Repair or remove them, or leave them out with --skip-corrupt."
        )
    order = np.argsort(_fractions(facts), kind="stable")
    members, facts = members[order], facts[order]
    named = len(listing.class_names) > 1
    return _Part(
        name,
        listing,
        [listing.ids[index] for index in members],
        [listing.class_names[label] if named else "" for label in listing.labels[members]],
        listing.contents.take(members),
        facts,
        told,
    )


def _trained_on(
    name: str, listing: Listing, split_seed: int, skip_corrupt: bool, reporter: Reporter
) -> tuple[Indices, Facts, Problems]:
    """Numbers of the images for training that can be read, their facts, and what is wrong with others."""
    counts = np.bincount(listing.labels, minlength=len(listing.class_names))
    if not listing.splits and len(counts) > 1 and counts.min() > 1:  # as finetune takes it, and splits it
        source = Source(name, listing, split_seed, skip_corrupt, reporter=reporter)
        members = source.splits["train"]
        return members, source.facts[members], source.problems
    members = listing.splits.get("train", np.arange(len(listing.labels)))
    facts, found = inspect(listing.contents.take(members), skip_corrupt, reporter)
    good = np.setdiff1d(np.arange(len(members)), list(found), assume_unique=True)
    problems = {int(members[index]): problem for index, problem in found.items()}
    return members[good], facts[good], problems
