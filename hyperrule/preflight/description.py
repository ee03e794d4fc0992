"""The data in words: what is neither right nor wrong."""

from collections.abc import Iterator, Mapping

from hyperrule.preflight.findings import Preflight
from hyperrule.preflight.verdicts import pixels
from hyperrule.support.wording import listed, number, printable

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


def facts(found: Preflight) -> Iterator[tuple[str, str]]:
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


def _class_count(found: Preflight) -> str:
    return number(len(found.class_names), "class")


def _splits(found: Preflight) -> str:
    sizes = ", ".join(f"{split} {sum(per_class):,}" for split, per_class in found.splits.items())
    return f"{sizes} (drawn by hyperrule)" if found.drawn and len(found.splits) > 1 else sizes
