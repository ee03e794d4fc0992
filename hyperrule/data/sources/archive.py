"""Packed data sets: .zip and .tar archives, unpacked once into the cache folder."""

import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO

from hyperrule.errors import DataError
from hyperrule.support.files import cache_folder, file_lock, os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import MIB, size

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, UnicodeError)
ENCRYPTED = 0x1  # flag of a zip's member
REGULAR_OR_UNKNOWN = (0, stat.S_IFREG, stat.S_IFDIR)  # file types in Unix' modes; Windows leaves none


class _RefusedError(Exception):
    """What no archive may hold."""


def is_archive(path: Path) -> bool:
    """By its suffix.

    >>> is_archive(Path("photos.tar.gz")), is_archive(Path("photos.gz"))
    (True, False)
    """
    return path.name.lower().endswith(SUFFIXES)


def unpacked(archive: Path, reporter: Reporter) -> Path:
    """The folder that the archive holds: the only folder at its top, or, if there is more, all of it.

    Known by its SHA-256, so that a second call unpacks nothing. Hidden files, and what macOS adds, are left packed.
    Raises DataError, with nothing left behind, if the archive cannot be read, is damaged, encrypted or empty, reaches
    out of its folder, or has no room.
    """
    with os_errors_as(DataError, f"cannot unpack {archive}"), archive.open("rb") as stream:
        folder = cache_folder() / "data" / hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        with file_lock(folder.parent / ".lock", reporter):
            if not folder.is_dir():
                stream.seek(0)
                _unpack(archive, stream, folder, reporter)
        return _root(folder)


def _unpack(archive: Path, stream: IO[bytes], folder: Path, reporter: Reporter) -> None:
    length = archive.stat().st_size
    reporter.say(f"Unpacking {archive} ({size(length)}) to {folder}.")
    unpack = _unzip if archive.suffix.lower() == ".zip" else _untar
    with (
        TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as temporary,
        reporter.stage("Unpacking", -(-length // MIB)) as report,
    ):
        staging = Path(temporary, "data")
        staging.mkdir()
        try:
            unpack(stream, staging, lambda: report(stream.tell() // MIB, "MiB"))
        except (_RefusedError, tarfile.FilterError) as error:
            raise DataError(f"{archive} is refused: {error}. Pack it from within its folder.") from None
        except DAMAGE as error:
            why = str(error).partition("\n")[0].rstrip(".:") or "it ends too early"  # tarfile lists what it has tried
            raise DataError(f"{archive} is damaged or no such archive: {why}. Fetch or copy it again.") from None
        except NotImplementedError as error:
            raise DataError(f"cannot unpack {archive}: {error}. Unpack it yourself and give its folder.") from None
        if not any(staging.iterdir()):
            raise DataError(f"{archive} is empty. It should hold a folder of class folders with images.")
        os.rename(staging, folder)


def _unzip(stream: IO[bytes], folder: Path, report: Callable[[], None]) -> None:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        for member in members:
            member.filename = member.filename.replace("\\", "/")  # as some programs on Windows write them
            _check_zipped(member)
        for member in members:
            if _counts(member.filename):
                archive.extract(member, folder)
                report()


def _check_zipped(member: zipfile.ZipInfo) -> None:
    """Raises _RefusedError and NotImplementedError: `zipfile` would mend names and links without a word."""
    _check_name(member.filename)
    if stat.S_IFMT(member.external_attr >> 16) not in REGULAR_OR_UNKNOWN:
        raise _RefusedError(f"{member.filename!r} is a link or device")
    if member.flag_bits & ENCRYPTED:
        raise NotImplementedError(f"{member.filename!r} is encrypted")


def _untar(stream: IO[bytes], folder: Path, report: Callable[[], None]) -> None:
    def data_inside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        report()
        _check_name(member.name)
        safe = tarfile.data_filter(member, path)
        return safe if _counts(member.name) else None

    with tarfile.open(fileobj=stream) as archive:
        archive.extractall(folder, filter=data_inside)
        # A tar cut between two members is read without a complaint: only the empty block at its end tells.
        if archive.fileobj is not None and archive.fileobj.tell() <= archive.offset:
            raise EOFError


def _check_name(name: str) -> None:
    """Raises _RefusedError, where `tarfile` too would only strip the slash of an absolute path."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _RefusedError(f"{name!r} would be written outside of its folder")


def _counts(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" not in parts and not any(part.startswith(".") for part in parts)


def _root(folder: Path) -> Path:
    children = list(folder.iterdir())
    return children[0] if len(children) == 1 and children[0].is_dir() else folder
