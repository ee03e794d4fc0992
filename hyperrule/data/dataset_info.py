"""What a data set is: the facts that the plan needs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Split = Literal["train", "validation", "test"]
Augmentation = Literal["flip", "crop"]


class SplitInfo(BaseModel):
    """Size of one split. `per_class` follows the order of `DatasetInfo.class_names`."""

    model_config = ConfigDict(frozen=True)

    examples: int
    per_class: tuple[int, ...]
    origin: str


class DatasetInfo(BaseModel):
    """Facts about a labelled image data set, known before TensorFlow is imported.

    `height` and `width` (pixels) are those of the image with the median area: the "image size" of
    a data set of mixed sizes. `sha256` covers every image's bytes, class and split, and nothing of how they are
    stored. `destroys_label` gives a reason for each augmentation that must stay off. `warnings` tell of what is
    wrong with the data, `notes` of how it was read.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    location: str | None
    class_names: tuple[str, ...]
    class_order: str
    splits: dict[Split, SplitInfo]
    height: int
    width: int
    sha256: str
    skipped: dict[str, str] = {}
    destroys_label: dict[Augmentation, str] = {}
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
