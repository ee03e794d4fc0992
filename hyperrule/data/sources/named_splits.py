"""Data sets that are called by a name: the keys of images and labels, and splits by expression."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, Protocol, get_args

import numpy as np

from hyperrule.data.images import Indices
from hyperrule.data.listing import SPLIT_NAMES, DataRequest, Listing, Split, split_by_name
from hyperrule.errors import DataError
from hyperrule.support.wording import did_you_mean, listed

OWN_ORDER = "the data set's own"


def chosen_key(
    wanted: str | None,
    customary: Sequence[str],
    certain: Sequence[str],
    possible: Sequence[str],
    what: Literal["image", "label"],
    data_set: str,
    features: Sequence[str],
) -> str:
    """The key of the image or the label: the wanted one; a customary name; or the only one that is `certain`.

    Raises DataError, with the choice, if that does not decide, and if there is nothing to choose from.
    """
    choice = [*certain, *possible]
    if wanted is not None:
        if wanted not in choice:
            offers = f"It has: {listed(choice) or 'none'}.{did_you_mean(wanted, choice)}"
            raise DataError(f"{data_set} has no {what} {wanted!r}. {offers}")
        return wanted
    for key in customary:
        if key in choice:
            return key
    if len(certain) == 1:
        return certain[0]
    if certain:
        raise DataError(f"{data_set} has several {what}s: {listed(certain)}. Say which: --{what}-key {certain[0]}")
    others = f" Any number or text can be the label: --{what}-key {possible[0]}" if possible else ""
    of_whole = "label of whole images" if what == "label" else "image"
    raise DataError(f"{data_set} has no {of_whole}. It has: {listed(features)}.{others}")


class Span(Protocol):
    """Part of a split, as the read instructions of both TFDS and Hugging Face have it; None is an end of the split."""

    splitname: str
    from_: int | None
    to: int | None


@dataclass(frozen=True)
class SplitSelection:
    """`images` are the numbers, ascending, of the images in any split, where all splits of the data set are counted
    through; `splits` index `images`."""

    images: Indices
    splits: dict[Split, Indices]
    origins: dict[Split, str]
    notes: tuple[str, ...]


def chosen_splits(
    request: DataRequest, sizes: dict[str, int], absolute: Callable[[str], Iterable[Span]], data_set: str
) -> SplitSelection:
    """Splits by name or expression ("train[:98%]", "train+validation"), which `absolute` resolves.

    Splits that the request does not mention go by custom, unless it spends their images otherwise. Raises DataError
    for what cannot be resolved, is empty, or has images twice or in two splits.
    """
    return resolved_splits(_expressions(request, sizes, data_set), request.splits, sizes, absolute, data_set)


def resolved_splits(
    expressions: Mapping[Split, str],
    asked: Collection[Split],
    sizes: dict[str, int],
    absolute: Callable[[str], Iterable[Span]],
    data_set: str,
) -> SplitSelection:
    """As `chosen_splits`, by expressions; those not `asked` for, but of train, give way to those that are."""
    firsts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))

    def numbers(expression: str) -> Indices:
        try:
            spans = list(absolute(expression))
        except Exception as error:
            raise DataError(
                f"{data_set} has no split {expression!r}: {reason(error)} It has: {listed(_counted(sizes))}. Parts "
                "and sums are written as 'train[:80%]', 'train[80%:]', 'train[:800]+validation[:200]'."
            ) from error
        parts = [np.arange(sizes[span.splitname])[span.from_ : span.to] + firsts[span.splitname] for span in spans]
        found = np.unique(np.concatenate([*parts, np.empty(0, np.int64)]))
        if not len(found) or len(found) < sum(map(len, parts)):
            wrong = "has some images twice" if len(found) else "is empty"
            raise DataError(f"split {expression!r} of {data_set} {wrong}. It has: {listed(_counted(sizes))}.")
        return found

    members = {split: numbers(expression) for split, expression in expressions.items()}
    notes = []
    for split in [split for split in expressions if split != "train" and split not in asked]:
        spent = next((other for other in asked if _common(members[split], members[other])), None)
        if spent:
            notes.append(f"split {expressions[split]} is in use by {expressions[spent]} ({spent})")
            del members[split]
    for one, other in combinations(members, 2):
        if common := _common(members[one], members[other]):
            raise DataError(
                f"{expressions[one]} ({one}) and {expressions[other]} ({other}) of {data_set} have {common:,} "
                "images in common. Give expressions without overlap, such as --train-split 'train[:90%]' and "
                f"--{other}-split 'train[90%:]'."
            )
    images = np.unique(np.concatenate(list(members.values())))
    unused = [name for name in sizes if sizes[name] and not _common(np.arange(sizes[name]) + firsts[name], images)]
    if unused:
        notes.append(f"not used: {listed(_counted({name: sizes[name] for name in unused}))}")
    return SplitSelection(
        images,
        {split: np.searchsorted(images, found) for split, found in members.items()},
        {split: f"split {expressions[split]}" for split in members},
        tuple(notes),
    )


def without_unlabelled(listing: Listing, request: DataRequest, data_set: str) -> Listing:
    """Leaves out a test or validation split that has no labels (-1), as contests keep them, unless it was asked for.

    Raises DataError where labels are missing otherwise.
    """
    labelled = listing.labels >= 0
    bare = [split for split, members in listing.splits.items() if not labelled[members].any()]
    left_out = [split for split in bare if split != "train" and split not in request.splits]
    splits = {split: members for split, members in listing.splits.items() if split not in left_out}
    for split, members in splits.items():
        if missing := int((~labelled[members]).sum()):
            raise DataError(f"{missing:,} of {len(members):,} images of {split} in {data_set} have no label.")
    if not left_out:
        return listing
    kept = np.sort(np.concatenate(list(splits.values())))
    return replace(
        listing,
        ids=[listing.ids[i] for i in kept],
        labels=listing.labels[kept],
        contents=listing.contents.take(kept),
        splits={split: np.searchsorted(kept, members) for split, members in splits.items()},
        origins={split: listing.origins[split] for split in splits},
        notes=(*listing.notes, f"{' and '.join(left_out)} has no labels and is not used"),
    )


def _expressions(request: DataRequest, sizes: dict[str, int], data_set: str) -> dict[Split, str]:
    """What was asked for, completed by custom; the only split, whatever its name, is for training."""
    unclaimed = [name for name in sizes if sizes[name] and SPLIT_NAMES.get(name.lower()) not in request.splits]
    if "train" in request.splits:
        unclaimed.append("train")
    customary = split_by_name(unclaimed, replace(request, splits={}), data_set)
    if not customary and len(sizes) == 1:
        customary = {"train": next(iter(sizes))}
    expressions = customary | dict(request.splits)
    if "train" not in expressions:
        raise DataError(f"{data_set} has the splits {listed(_counted(sizes))}. Say what to train on: --train-split ...")
    return {split: expressions[split] for split in get_args(Split) if split in expressions}


def _counted(sizes: dict[str, int]) -> list[str]:
    return [f"{name} ({size:,})" for name, size in sizes.items()]


def _common(some: Indices, others: Indices) -> int:
    """How many numbers are in both."""
    return len(np.intersect1d(some, others, assume_unique=True))


def reason(error: BaseException) -> str:
    """The first line that says something, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0][:300].rstrip('.') if lines else type(error).__name__}."
