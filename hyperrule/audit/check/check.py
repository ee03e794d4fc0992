"""From a data set whose images have all been decoded to what is wrong with it."""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperrule.audit.check.duplicates import Placement, find_all_duplicates
from hyperrule.audit.check.findings import Choice, Imbalance, Lie, Size, Sizes
from hyperrule.audit.check.near_duplicates import NearPairs
from hyperrule.audit.check.page import CheckReport
from hyperrule.data.images import Indices
from hyperrule.data.inspection import Facts, size_histogram
from hyperrule.data.listing import Split
from hyperrule.data.source import IMBALANCED, Source
from hyperrule.errors import DataError
from hyperrule.rule import regime, resolution, schedule
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import number

FORMAT_OF = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}  # by extension
HUGE = 89_478_485  # pixels; of more, Pillow warns
ELONGATED = 4  # times as long as wide


@dataclass(frozen=True)
class _Splits:
    """As finetune would have them, or why it would not; then as far as the data set has them."""

    members: dict[Split, Indices]
    refusal: str | None


def check_source(source: Source, reporter: Reporter) -> CheckReport:
    """Everything that `hyperrule check` reports. Raises DataError if the images cannot be told apart at all, such as
    for exclusions of another data set."""
    listing, facts = source.listing, source.facts
    readable = np.flatnonzero(facts["height"] > 0)
    good = facts[readable]
    splits = _splits(source, readable)
    drawn = len(listing.splits) < 2
    found = find_all_duplicates(good, _placed(source, readable, {} if drawn else splits.members), reporter)
    counts = {split: _per_class(source, members) for split, members in splits.members.items()}
    problems = {listing.ids[index]: problem for index, problem in source.problems.items()}
    report = CheckReport(
        name=source.name,
        kind=listing.kind,
        location=None if listing.location is None else str(listing.location),
        images=len(readable) + len(problems),
        excluded=len(source.exclusions.ids),
        class_names=listing.class_names,
        class_order=listing.class_order,
        splits={split: tuple(per_class.tolist()) for split, per_class in counts.items()},
        drawn=drawn,
        notes=(*listing.notes, *((listing.cost,) if listing.cost else ())),
        problems=problems,
        formats=_formats(good),
        orientations={int(o): int(n) for o, n in zip(*np.unique(good["orientation"], return_counts=True), strict=True)},
        turned=tuple(listing.ids[index] for index in readable[good["orientation"] != 1]),
        animated=tuple(listing.ids[index] for index in readable[good["frames"] > 1]),
        transparent=int(good["alpha"].sum()),
        lies=_lies(source),
        sizes=_sizes(source, readable),
        rule=_choice(good, len(splits.members.get("train", ()))),
        refusal=splits.refusal,
        imbalance=_imbalance(listing.class_names, counts.get("train", np.zeros(0, np.int64))),
        missing={
            split: tuple(listing.class_names[label] for label in np.flatnonzero(per_class == 0))
            for split, per_class in counts.items()
            if not per_class.all()
        },
        exact=found.exact,
        near=found.near,
        not_compared=_not_compared(found.compared),
        exclusions={**dict.fromkeys(source.exclusions.ids, "left out before")}
        | {identity: f"cannot be read: {problem}" for identity, problem in problems.items()}
        | found.exclusions,
    )
    report._source = source
    return report


def _splits(source: Source, readable: Indices) -> _Splits:
    try:
        return _Splits(source.splits, None)
    except DataError as error:
        everything = source.listing.splits or {"train": readable}
        return _Splits({split: np.intersect1d(m, readable) for split, m in everything.items()}, str(error))


def _placed(source: Source, readable: Indices, splits: dict[Split, Indices]) -> Placement:
    listing = source.listing
    split_of = np.zeros(len(readable), np.int64)
    for index, members in enumerate(splits.values()):
        split_of[np.searchsorted(readable, members)] = index
    return Placement(readable, listing.ids, listing.class_names, listing.labels[readable], tuple(splits), split_of)


def _per_class(source: Source, members: Indices) -> npt.NDArray[np.int64]:
    return np.bincount(source.listing.labels[members], minlength=len(source.listing.class_names)).astype(np.int64)


def _formats(good: Facts) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (image_format, mode), images in zip(*np.unique(good[["format", "mode"]], return_counts=True), strict=True):
        found.setdefault(str(image_format), {})[str(mode)] = int(images)
    return found


def _lies(source: Source) -> tuple[Lie, ...]:
    lies = []
    for identity, image_format in zip(source.listing.ids, source.facts["format"].tolist(), strict=True):
        extension = os.path.splitext(identity)[1].lower()
        if image_format and FORMAT_OF.get(extension, image_format) != image_format:
            lies.append(Lie(id=identity, extension=extension, format=image_format))
    return tuple(lies)


def _sizes(source: Source, readable: Indices) -> Sizes | None:
    if not len(readable):
        return None
    good, ids = source.facts[readable], source.listing.ids
    by_area = _by_area(good)
    height, width = good["height"].astype(np.int64), good["width"].astype(np.int64)
    longest, shortest = np.maximum(height, width), np.minimum(height, width)
    return Sizes(
        smallest=_size(good[by_area[0]]),
        median=_size(good[by_area[len(good) // 2]]),
        largest=_size(good[by_area[-1]]),
        histogram=size_histogram(good),
        elongated={ids[readable[i]]: _size(good[i]) for i in np.flatnonzero(longest >= ELONGATED * shortest)},
        huge={ids[readable[i]]: _size(good[i]) for i in np.flatnonzero(height * width > HUGE)},
    )


def _by_area(good: Facts) -> Indices:
    return np.lexsort((good["height"], good["height"].astype(np.int64) * good["width"]))


def _size(facts: np.void) -> Size:
    return Size(height=int(facts["height"]), width=int(facts["width"]))


def _choice(good: Facts, examples: int) -> Choice | None:
    if not examples:
        return None
    median = _size(good[_by_area(good)[len(good) // 2]])
    chosen = resolution(median.height, median.width)
    return Choice(
        regime=regime(examples),
        examples=examples,
        median=median,
        resize=chosen.resize,
        crop=chosen.crop,
        steps=schedule(examples).steps,
    )


def _imbalance(names: tuple[str, ...], counts: npt.NDArray[np.int64]) -> Imbalance | None:
    if not counts.any() or counts.max() < IMBALANCED * counts.min():
        return None
    most, least = int(counts.argmax()), int(counts.argmin())
    return Imbalance(largest=names[most], most=int(counts[most]), smallest=names[least], least=int(counts[least]))


def _not_compared(compared: NearPairs) -> tuple[str, ...]:
    said = (
        (len(compared.flat), "of one plain colour, or nearly so, compared by bytes only"),
        (len(compared.crowded), "so like hundreds of others that not all of those were compared"),
    )
    return tuple(f"{number(images, 'image')} {what}" for images, what in said if images)
