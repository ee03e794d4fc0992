"""Where encoded images are, each to be read by its number: files, parts of files, tables, arrays.

Nothing is held in memory but where things are. Reading is safe in many threads and, after pickling, processes.

Labelled images of one split, in their fixed order, random access.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    import pyarrow as pa
from collections.abc import Iterator

Indices = npt.NDArray[np.int64]


class EncodedImages(Protocol):
    """n encoded images (JPEG, PNG, GIF, BMP, WebP). Reading raises OSError."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes:
        """The encoded image of that number."""
        ...

    def take(self, indices: Indices) -> Self:
        """Those images, in that order."""
        ...


@dataclass(frozen=True)
class Files:
    """One file an image: `names` (str [n]) are paths relative to `folder`, or absolute."""

    folder: Path
    names: npt.NDArray[np.object_]

    @classmethod
    def of(cls, folder: Path, names: Sequence[str]) -> Self:
        return cls(folder, np.array(names, dtype=object))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> bytes:
        with open(os.path.join(self.folder, self.names[index]), "rb") as stream:  # half the time that Path takes
            return stream.read()

    def paths(self) -> list[bytes]:
        """As the operating system takes them: names need not be UTF-8."""
        return [os.fsencode(os.path.join(self.folder, name)) for name in self.names]

    def take(self, indices: Indices) -> Self:
        return type(self)(self.folder, self.names[indices])


@dataclass(frozen=True)
class FileParts:
    """Images that lie whole within larger files, such as shards.

    Image i has `lengths[i]` bytes from byte `offsets[i]` (int64 [n]) of `files[which[i]]` (which: int32 [n]).
    """

    files: tuple[Path, ...]
    which: npt.NDArray[np.int32]
    offsets: Indices
    lengths: Indices

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int) -> bytes:
        file, length = self.files[self.which[index]], int(self.lengths[index])
        with file.open("rb") as stream:
            stream.seek(int(self.offsets[index]))
            part: bytes = stream.read(length)
        if len(part) < length:
            raise OSError(f"{file} has become shorter")
        return part

    def take(self, indices: Indices) -> Self:
        return type(self)(self.files, self.which[indices], self.offsets[indices], self.lengths[indices])


@dataclass(frozen=True)
class TableColumn:
    """Images in a column of type binary of an Arrow table, which may be mapped from a file; `rows` int64 [n]."""

    column: "pa.ChunkedArray"
    rows: Indices

    @classmethod
    def of(cls, images: "Sequence[bytes] | pa.ChunkedArray") -> Self:
        import pyarrow as pa  # here, for most data sets do without

        column = images if isinstance(images, pa.ChunkedArray) else pa.chunked_array([list(images)], pa.large_binary())
        return cls(column, np.arange(len(column)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:
        encoded: bytes = self.column[int(self.rows[index])].as_py()
        return encoded

    def take(self, indices: Indices) -> Self:
        return type(self)(self.column, self.rows[indices])


class Arrays(Protocol):
    """N images, uint8 [height, width] or [height, width, 1 or 3], 0-255: an array, or several one after another."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Pixels:
    """Images that were never encoded, in memory or mapped from a file; `rows` int64 [n]. They are read as lossless
    24-bit BMP."""

    images: Arrays
    rows: Indices

    @classmethod
    def of(cls, images: Arrays) -> Self:
        return cls(images, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:
        image = np.asarray(self.images[int(self.rows[index])])
        grey = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        buffer = io.BytesIO()
        Image.fromarray(grey).convert("RGB").save(buffer, "BMP")
        return buffer.getvalue()

    def take(self, indices: Indices) -> Self:
        return type(self)(self.images, self.rows[indices])


@dataclass(frozen=True)
class Joined:
    """Images of several contents: image i is number `numbers[i]` (int64 [n]) of `parts[which[i]]` (int64 [n])."""

    parts: tuple[EncodedImages, ...]
    which: Indices
    numbers: Indices

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int) -> bytes:
        part = self.parts[int(self.which[index])]
        return part[int(self.numbers[index])]

    def take(self, indices: Indices) -> Self:
        return type(self)(self.parts, self.which[indices], self.numbers[indices])


def joined(parts: Sequence[EncodedImages]) -> EncodedImages:
    """The images of all, one after another; files stay files, which are read fastest."""
    if all(isinstance(part, Files) for part in parts):
        names = [os.path.join(part.folder, name) for part in parts if isinstance(part, Files) for name in part.names]
        return Files.of(Path("/"), names)
    sizes = [len(part) for part in parts]
    which = np.repeat(np.arange(len(parts)), sizes)
    return Joined(tuple(parts), which, np.concatenate([np.arange(size) for size in sizes]))


@dataclass(frozen=True)
class Examples:
    """`labels` are int32 [n], indices into `DatasetInfo.class_names`; `sha256` are the hashes of the encoded images,
    uint8 [n, 32], None where they are not known."""

    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    contents: EncodedImages
    sha256: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def encoded(self) -> Iterator[bytes]:
        """The encoded images, one by one."""
        return (self.contents[index] for index in range(len(self)))

    def take(self, indices: Indices) -> "Examples":
        sha256 = None if self.sha256 is None else self.sha256[indices]
        return Examples([self.ids[i] for i in indices], self.labels[indices], self.contents.take(indices), sha256)
