"""Arrays in .npy files and in .npz archives: what they are, known from their headers, and mapped into memory."""

import hashlib
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from hyperrule.support.files import NpyHeader, atomic_write, cache_folder, file_lock
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import size

LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's member: lengths of the name and of the extra field that follow


class Mapped(np.memmap[Any, np.dtype[Any]]):
    """An array in a file, read where it is used. It is pickled as where it lies, not as what it holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        order = "F" if self.flags.f_contiguous and not self.flags.c_contiguous else "C"
        return Mapped, (self.filename, self.dtype, "r", self.offset, self.shape, order)


@dataclass(frozen=True)
class Npy:
    """A .npy file, or with `member` one in the .npz `file`."""

    file: Path
    member: str = ""

    @cached_property
    def header(self) -> NpyHeader:
        with self._opened() as stream:
            return NpyHeader.read(stream)

    def load(self) -> npt.NDArray[Any]:
        """All of it, in memory. Raises ValueError, OSError and zipfile.BadZipFile."""
        with self._opened() as stream:
            NpyHeader.read(stream)  # words the refusal of Python objects
            stream.seek(0)
            array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return array

    def mapped(self, reporter: Reporter) -> Mapped:
        """Mapped where it lies; if it is compressed, from the cache folder, unpacked there once.

        Raises OSError, zipfile.BadZipFile and RunError.
        """
        header = self.header
        file, start = (self.file, 0) if not self.member else self._within(reporter)
        length = header.dtype.itemsize * int(np.prod(header.shape, dtype=np.int64))
        if file.stat().st_size < start + header.offset + length:
            raise ValueError("the file is cut short")
        if not length:
            raise ValueError("an array without elements")
        mapped: Mapped = Mapped(file, header.dtype, "r", start + header.offset, header.shape, header.order)  # type: ignore[call-overload]
        return mapped

    def _within(self, reporter: Reporter) -> tuple[Path, int]:
        """The file in which the member lies as it is, and from which byte."""
        with self.file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            info = archive.getinfo(self.member)
            if info.compress_type == zipfile.ZIP_STORED:
                stream.seek(info.header_offset)
                lengths = LOCAL_HEADER.unpack(stream.read(LOCAL_HEADER.size))
                return self.file, stream.tell() + sum(lengths)
            stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            target = cache_folder() / "arrays" / sha256[:16] / quote(self.member, safe="")
            with file_lock(target.parent.with_suffix(".lock"), reporter):
                if not target.exists():
                    reporter.say(f"Unpacking {self.member} of {self.file} ({size(info.file_size)}) to {target}.")
                    target.parent.mkdir(exist_ok=True)
                    with atomic_write(target) as partial, archive.open(info) as packed, partial.open("wb") as out:
                        shutil.copyfileobj(packed, out, 2**20)
            return target, 0

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if not self.member:
            with self.file.open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(self.file) as archive, archive.open(self.member) as stream:
                yield stream


def members(archive: Path) -> dict[str, Npy]:
    """The arrays of an .npz by their keys. Raises OSError and zipfile.BadZipFile."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.endswith(".npy")]
    return {name.removesuffix(".npy"): Npy(archive, name) for name in names}
