"""Labelled images of one split, in their fixed order, random access."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperrule.data.contents import Contents, Indices


@dataclass(frozen=True)
class Examples:
    """`labels` are int32 [n], indices into `DatasetInfo.class_names`."""

    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    contents: Contents

    def __len__(self) -> int:
        return len(self.ids)

    def encoded(self) -> Iterator[bytes]:
        """The encoded images, one by one."""
        return (self.contents[index] for index in range(len(self)))

    def take(self, indices: Indices) -> "Examples":
        return Examples([self.ids[i] for i in indices], self.labels[indices], self.contents.take(indices))
