"""What the findings mean, in words: what is wrong, with how many images, and what to do about it.

The data in words: what is neither right nor wrong.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from hyperrule.audit.check.findings import DuplicateGroups, Findings, Size
from hyperrule.support.wording import listed, number, printable

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Verdict:
    """`some` says which, shortened; `groups` are ids of images to look at, those that belong together side by side."""

    level: Level
    what: str
    some: str = ""
    todo: str = ""
    groups: tuple[tuple[str, ...], ...] = ()


def verdicts(found: Findings) -> Iterator[Verdict]:
    """Errors first, then warnings, each from the gravest on."""
    yield from _errors(found)
    yield from _near(found)
    yield from _repeated(found)
    yield from _classes(found)
    yield from _odd(found)


def _errors(found: Findings) -> Iterator[Verdict]:
    if found.refusal:
        yield Verdict("error", "finetune would refuse the data", printable(found.refusal))
    if found.problems:
        yield Verdict(
            "error",
            f"{number(len(found.problems), 'file')} cannot be read",
            _with(found.problems),
            "repair them, or leave them out",
            tuple((identity,) for identity in found.problems),
        )
    if found.exact.across_classes.images:
        yield _alike(
            "error",
            found.exact.across_classes,
            "in two classes or more, byte for byte (label conflict)",
            "find out which class is right; the exclusions leave out all of them",
        )
    if found.exact.across_splits.images:
        yield _alike(
            "error",
            found.exact.across_splits,
            "of a later split in an earlier one too, byte for byte (leakage)",
            "test figures are too good; the exclusions leave out the copies in the earlier split",
        )


def _near(found: Findings) -> Iterator[Verdict]:
    if found.near.across_splits.images:
        yield _alike(
            "warning",
            found.near.across_splits,
            "of a later split nearly the same as one in an earlier split (leakage)",
            "test figures may be too good; the exclusions leave out the images of the earlier split",
        )
    if found.near.across_classes.images:
        yield _alike(
            "warning",
            found.near.across_classes,
            "nearly the same as one in another class",
            "look at them: one of the labels may be wrong",
        )


def _repeated(found: Findings) -> Iterator[Verdict]:
    if found.exact.within_class.images:
        yield _alike(
            "warning",
            found.exact.within_class,
            "repeated in the same class, byte for byte",
            "each counts again in training; the exclusions leave out the later copies",
        )
    if found.near.within_class.images:
        yield _alike(
            "warning",
            found.near.within_class,
            "nearly the same as another of the class",
            "the drawn test split may part them: give a test split of your own if they are of one scene"
            if found.drawn
            else "no harm within a split, but they teach less than their number says",
        )


def _classes(found: Findings) -> Iterator[Verdict]:
    for split, names in found.missing.items():
        yield Verdict(
            "warning",
            f"{split} has no images of {number(len(names), 'class')}",
            listed(map(_name, names)),
            "nothing can be learned about them" if split == "train" else f"{split} figures say nothing about them",
        )
    if (uneven := found.imbalance) is not None:
        yield Verdict(
            "warning",
            f"the largest class has {number(uneven.most, 'image')} for training, the smallest {uneven.least:,}",
            f"{_name(uneven.largest)}, {_name(uneven.smallest)}",
            "--balance sampler or --balance loss gives rare classes weight",
        )


def _odd(found: Findings) -> Iterator[Verdict]:
    if found.lies:
        yield Verdict(
            "warning",
            f"{number(len(found.lies), 'file name')} with the extension of another format",
            _with({lie.id: lie.format for lie in found.lies}),
            "no harm here, where bytes decide; other programs may stumble",
            tuple((lie.id,) for lie in found.lies),
        )
    if found.animated:
        yield Verdict(
            "warning",
            f"{number(len(found.animated), 'image')} with several frames",
            listed(map(printable, found.animated)),
            "only the first frame is used",
            tuple((identity,) for identity in found.animated),
        )
    if found.sizes is not None:
        for odd, what, todo in (
            (found.sizes.huge, "of more than 89 million pixels", "make them smaller: each takes a GB to decode"),
            (found.sizes.elongated, "four times as long as wide, or longer", "they are squeezed into a square"),
        ):
            if odd:
                said = _with({identity: pixels(size) for identity, size in odd.items()})
                groups = tuple((identity,) for identity in odd)
                yield Verdict("warning", f"{number(len(odd), 'image')} {what}", said, todo, groups)


def _alike(level: Level, alike: DuplicateGroups, what: str, todo: str) -> Verdict:
    said = (" = ".join(printable(member.id) for member in group[:3]) for group in alike.groups)
    groups = tuple(tuple(member.id for member in group) for group in alike.groups)
    return Verdict(level, f"{number(alike.images, 'image')} {what}", listed(said), todo, groups)


def _with(reasons: Mapping[str, str]) -> str:
    return listed(f"{printable(identity)} ({printable(reason)})" for identity, reason in reasons.items())


def _name(class_name: str) -> str:
    return f"'{printable(class_name)}'"


def pixels(size: Size) -> str:
    return f"{size.height} x {size.width}"


MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with alpha",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour with alpha",
    "CMYK": "CMYK",
    "YCCK": "CMYK",
}  # Pillow's, in words


def facts(found: Findings) -> Iterator[tuple[str, str]]:
    """A heading and a line for each thing that is neither right nor wrong."""
    yield "data", f"{printable(found.name)}: {found.kind}, {number(found.images, 'image')}, {_class_count(found)}"
    yield "splits", _splits(found)
    if found.excluded:
        yield "excluded", f"{number(found.excluded, 'image')} left out from the start"
    if (size := found.sizes) is not None:
        of = "all" if size.smallest == size.largest else f"{pixels(size.smallest)} to {pixels(size.largest)}, median"
        yield "sizes", f"{of} {pixels(size.median)} pixels"
    if (rule := found.rule) is not None:
        yield (
            "rule",
            f"{rule.regime} data set ({number(rule.examples, 'training image')}): {rule.steps:,} steps, resized to "
            f"{rule.resize}, cropped to {rule.crop} pixels",
        )
    if found.formats:
        yield "formats", "; ".join(f"{name}: {_modes(modes)}" for name, modes in found.formats.items())
    if found.turned:
        turned = f"{number(len(found.turned), 'image')} stored turned or mirrored, put upright by EXIF"
        yield "turned", f"{turned}: {listed(map(printable, found.turned))}"
    if found.transparent:
        yield "alpha", f"{number(found.transparent, 'image')} with transparency, put on white"
    for note in (*map(printable, found.notes), *found.not_compared):
        yield "note", note


def mode_in_words(mode: str) -> str:
    """
    >>> mode_in_words("RGB;16"), mode_in_words("I;16"), mode_in_words("F")
    ('16-bit colour', '16-bit grey', 'F')
    """
    name, _, bits = mode.partition(";")
    words = "grey" if name == "I" else MODES.get(name, name)
    return f"16-bit {words}" if bits or name == "I" else words


def _modes(modes: Mapping[str, int]) -> str:
    return ", ".join(f"{images:,} {mode_in_words(mode)}" for mode, images in modes.items())


def _class_count(found: Findings) -> str:
    return number(len(found.class_names), "class")


def _splits(found: Findings) -> str:
    sizes = ", ".join(f"{split} {sum(per_class):,}" for split, per_class in found.splits.items())
    return f"{sizes} (drawn by hyperrule)" if found.drawn and len(found.splits) > 1 else sizes
