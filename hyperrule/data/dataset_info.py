"""What a data set is: the facts that the plan needs, and the examples that the work reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
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
    a data set of mixed sizes. `sha256` covers every image's bytes, name, class and split.
    `destroys_label` gives a reason for each augmentation ("flip", "crop") that must stay off.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    location: str | None
    class_names: tuple[str, ...]
    splits: dict[Split, SplitInfo]
    height: int
    width: int
    sha256: str
    skipped: dict[str, str] = {}
    destroys_label: dict[Augmentation, str] = {}
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examples:
    """Labelled images of one split, in their fixed order, random access.

    `contents` are encoded images (JPEG, PNG, GIF, BMP, WebP): their bytes, or the paths of files
    that hold them. `labels` are int32 [n], indices into `DatasetInfo.class_names`.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    contents: Sequence[bytes] | Sequence[Path]

    def __len__(self) -> int:
        return len(self.ids)

    def encoded(self) -> Iterator[bytes]:
        """The encoded images, one by one."""
        return (content.read_bytes() if isinstance(content, Path) else content for content in self.contents)

    def take(self, indices: npt.NDArray[np.int64]) -> "Examples":
        return Examples(
            [self.ids[i] for i in indices],
            self.labels[indices],
            [self.contents[i] for i in indices],
        )


class Source(Protocol):
    """A data set that was opened: its facts, and its examples by split."""

    @property
    def info(self) -> DatasetInfo: ...

    def examples(self, split: Split) -> Examples: ...
