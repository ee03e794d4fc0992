"""Augmentations that destroy what a label says: known for some data sets, hinted at by class names in others."""

import re
from collections.abc import Sequence

from hyperrule.data.listing import AugmentationName

SIDES = "a mirrored image shows another angle"
PLACES = "a random crop moves the shape"
OBJECTS = "a random crop can leave objects out"
DISTANCES = "a random crop changes how near things look, or leaves the nearest one out"

# By a pattern of "NAME LABEL", names being those of TFDS. The tasks are those of VTAB (arXiv 1912.11370, supp. F);
# dSprites' location there is the x position, and the y position is what a mirrored image keeps.
DESTROYS_LABEL: dict[str, dict[AugmentationName, str]] = {
    r"dsprites.*orientation": {"flip": SIDES},
    r"dsprites.*(x_position|position_x|location)": {"flip": "a mirrored image changes sides", "crop": PLACES},
    r"dsprites.*(y_position|position_y)": {"crop": PLACES},
    r"norb.*azimuth": {"flip": SIDES},
    r"clevr.*count": {"crop": OBJECTS},
    r"clevr.*distance": {"crop": DISTANCES},
    r"dmlab": {"crop": DISTANCES},
    r"kitti.*distance": {"crop": DISTANCES},
}

MIRRORED = {
    "left": "right",
    "east": "west",
    "northeast": "northwest",
    "southeast": "southwest",
    "clockwise": "counterclockwise",
}
MIRRORED |= {after: before for before, after in MIRRORED.items()}
DIRECTION = re.compile(rf"(?<![a-z])({'|'.join(sorted(MIRRORED, key=len, reverse=True))})(?![a-z])")
DIGIT_WORDS = frozenset(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
DIGITS = frozenset("0123456789")


def destroys_label(dataset_name: str, label_key: str | None) -> dict[AugmentationName, str]:
    """The augmentations that must stay off for a known data set and label, each with its reason.

    >>> sorted(destroys_label("dsprites", "label_x_position"))
    ['crop', 'flip']
    """
    task = f"{dataset_name} {label_key or ''}".lower()
    found: dict[AugmentationName, str] = {}
    for pattern, reasons in DESTROYS_LABEL.items():
        if re.search(pattern, task):
            found |= reasons
    return found


def hints(class_names: Sequence[str]) -> tuple[str, ...]:
    """A line for what the names of unknown classes suggest: directions, digits or letters; mostly none.

    A direction counts if its mirror image is another class ("turn left", "turn right") or if it is all of the name.
    Names 0 to 9 may be digits or no names at all, which the line leaves open; fewer numbers say nothing.

    >>> hints(["bright", "dark"])
    ()
    """
    names = {_words(name) for name in class_names}
    sided = [name for name in class_names if _changes_side(_words(name), names)]
    letters = [name for name in names if len(name) == 1 and "a" <= name <= "z"]
    signs = "other signs: consider --no-flip; cut ones are too: consider --no-crop"
    found = []
    if sided:
        found.append(f"a mirrored image changes sides, and classes are named {sided[0]!r}: if so, --no-flip")
    if names == DIGITS:
        found.append(f"classes are named 0 to 9: if these are digits, mirrored ones are {signs}")
    elif len(names) > 1 and names <= DIGIT_WORDS:
        found.append(f"classes are named as digits, and mirrored digits are {signs}")
    elif len(letters) > 2 and 2 * len(letters) >= len(names):
        found.append(f"classes are named as letters, and mirrored letters are {signs}")
    return tuple(found)


def _words(name: str) -> str:
    """Lower case, with "TurnLeft" as "turn left" and every "anti-clockwise" as "counterclockwise"."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    joined = re.sub(r"(north|south|counter|anti)[-_ ](?=east|west|clockwise)", r"\1", apart)
    return joined.replace("anticlockwise", "counterclockwise")


def _changes_side(name: str, names: set[str]) -> bool:
    mirrored = DIRECTION.sub(lambda word: MIRRORED[word[0]], name)
    return mirrored != name and (mirrored in names or mirrored in MIRRORED)
