"""What preflight found: the model that --json prints. Lists are complete; whoever shows them shortens them."""

from pydantic import BaseModel, ConfigDict

from hyperrule.data.inspection import SizeBin
from hyperrule.data.listing import Split
from hyperrule.rule import Regime


class Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class Size(Facts):
    """Pixels, of an image that stands upright."""

    height: int
    width: int


class Sizes(Facts):
    """Of the images that can be read: those of the smallest, median and largest area, and ids of odd ones."""

    smallest: Size
    median: Size
    largest: Size
    histogram: tuple[SizeBin, ...]
    elongated: dict[str, Size]
    huge: dict[str, Size]


class Lie(Facts):
    """An image whose name says another format than its bytes."""

    id: str
    extension: str
    format: str


class Choice(Facts):
    """What the BiT-HyperRule makes of the data: n training images, the image of median area."""

    regime: Regime
    examples: int
    median: Size
    resize: int
    crop: int
    steps: int


class Imbalance(Facts):
    """Largest and smallest class in training."""

    largest: str
    most: int
    smallest: str
    least: int


class Member(Facts):
    """An image among others that are like it; `split` is None where hyperrule draws the splits."""

    id: str
    class_name: str
    split: Split | None


class DuplicateGroups(Facts):
    """Groups of images that are alike; `images` counts those that need not be there, or must not."""

    images: int
    groups: tuple[tuple[Member, ...], ...]


class Duplicates(Facts):
    """Images that are alike within a class and split (all but one of each group count), across classes (all count) and
    across splits (those in validation and test that are like one in training count)."""

    within_class: DuplicateGroups
    across_classes: DuplicateGroups
    across_splits: DuplicateGroups


class Findings(Facts):
    """`refusal` is why finetune would not take the data even without the images that cannot be read. `drawn` says
    that the test split is one that hyperrule draws. `orientations` are EXIF's, 1 to 8, and `turned` images have another
    than 1. `exclusions` are ids to leave out, each with the reason."""

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
        """Whether there is anything that finetune refuses or that makes its figures wrong for certain."""
        wrong = (self.problems, self.refusal, self.exact.across_classes.images, self.exact.across_splits.images)
        return any(map(bool, wrong))
