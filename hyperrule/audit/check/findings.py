"""The findings of `hyperrule check`, as --json prints them. Lists are complete; output shortens them."""

from pydantic import BaseModel, ConfigDict

from hyperrule.data.inspection import SizeBin
from hyperrule.data.listing import Split
from hyperrule.rule import Regime


class Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class Size(Facts):
    """Size of an upright image, in pixels."""

    height: int
    width: int


class Sizes(Facts):
    """Sizes of the readable images: smallest, median and largest by area, a histogram, and ids of unusual ones."""

    smallest: Size
    median: Size
    largest: Size
    histogram: tuple[SizeBin, ...]
    elongated: dict[str, Size]
    huge: dict[str, Size]


class Lie(Facts):
    """An image whose extension contradicts its format."""

    id: str
    extension: str
    format: str


class Choice(Facts):
    """The BiT-HyperRule's decision: from the number of training images and the image of median area."""

    regime: Regime
    examples: int
    median: Size
    resize: int
    crop: int
    steps: int


class Imbalance(Facts):
    """Largest and smallest class of the training split, by number of images."""

    largest: str
    most: int
    smallest: str
    least: int


class Member(Facts):
    """An image in a group of duplicates; `split` is None if hyperrule splits at random."""

    id: str
    class_name: str
    split: Split | None


class DuplicateGroups(Facts):
    """Groups of duplicates; `images` counts the redundant or harmful images, see `Duplicates`."""

    images: int
    groups: tuple[tuple[Member, ...], ...]


class Duplicates(Facts):
    """Equal or nearly equal images. Within a class and split, all but one of a group count; across classes, all count;
    across splits, those in a later split than the first count."""

    within_class: DuplicateGroups
    across_classes: DuplicateGroups
    across_splits: DuplicateGroups


class Findings(Facts):
    """`refusal` is the reason why finetune would refuse the data even without unreadable images. `drawn`: hyperrule
    makes the test split at random. `orientations` counts images by EXIF orientation, 1 to 8; `turned` lists those with
    another than 1. `exclusions` maps ids to leave out to the reason."""

    name: str
    kind: str
    location: str | None
    images: int
    excluded: int
    class_names: tuple[str, ...]
    class_order: str
    splits: dict[Split, tuple[int, ...]]
    drawn: bool
    notes: tuple[str, ...]
    problems: dict[str, str]
    formats: dict[str, dict[str, int]]
    orientations: dict[int, int]
    turned: tuple[str, ...]
    animated: tuple[str, ...]
    transparent: int
    lies: tuple[Lie, ...]
    sizes: Sizes | None
    rule: Choice | None
    refusal: str | None
    imbalance: Imbalance | None
    missing: dict[Split, tuple[str, ...]]
    exact: Duplicates
    near: Duplicates
    not_compared: tuple[str, ...]
    exclusions: dict[str, str]

    @property
    def must_be_mended(self) -> bool:
        """Whether finetune would refuse the data, or its results would certainly be wrong."""
        wrong = (self.problems, self.refusal, self.exact.across_classes.images, self.exact.across_splits.images)
        return any(map(bool, wrong))
