"""Tar shards in the layout of WebDataset: the members of a sample are adjacent and share a key, the path up to the
first dot of the file name, as in `cats/03.jpg` and `cats/03.cls`.

One pass over headers and labels indexes the position of every image, without reading the images.
"""

import json
import os
import re
import reprlib
import shlex
import sys
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from hyperrule.data.images import FileParts
from hyperrule.data.listing import INTEGER, DataRequest, Listing, Split
from hyperrule.data.sources.image_folder import CLASSES_FILE, EXTENSIONS
from hyperrule.data.sources.shards import classes_of, find_shards
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed, printable

SHARD = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
SAMPLE_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)  # key, extension
LABELS = ("cls", "txt", "json")  # extensions of members
JSON_LABELS = ("label", "cls", "class", "class_name")  # keys of a JSON label, in order of precedence
LABEL_BYTES = 1 << 20  # longer members are not labels
PACKERS = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
DAMAGE = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError)  # raised by tarfile
END_BYTES = 1 << 20  # after the last member, checked to be zeros
KEY_RULE = "The key of a sample is the path up to the first dot of the file name."
ADJACENT = "The members of a sample must be adjacent: tar --sort=name writes them so."


class Member(NamedTuple):
    """A file of a shard: its path, split into key and extension by WebDataset's rule, and its position in bytes."""

    path: str
    key: str
    extension: str
    offset: int
    length: int
    text: bytes  # content of a label, else empty


@dataclass(frozen=True)
class Label:
    text: str
    is_number: bool  # whether it is stored as a number


def list_tar_shards(request: DataRequest, reporter: Reporter) -> Listing:
    """List every sample in shard order. Raises DataError for a sample without exactly one image and one label."""
    shards = find_shards(request, SHARD, "train-0000.tar")
    which, offsets, lengths = array("i"), array("q"), array("q")
    ids: list[str] = []
    labels: list[str] = []
    typical: dict[bool, tuple[str, str]] = {}  # first label that is (True) or is not a number, and its sample
    seen: dict[Split | None, set[str]] = {}  # sample keys of every split
    for number, file in shards.scanned(reporter):
        keys = seen.setdefault(shards.splits[number], set())
        for key, sample in groupby(_members(file), lambda member: member.key):
            where = f"sample {printable(key)} of {file}"
            members = list(sample)
            image, label = _image(members, request.image_key, where), _label(members, request.label_key, where)
            if key in keys:
                raise DataError(f"{where} occurs twice in its split; keys must be unique. {KEY_RULE} {ADJACENT}")
            keys.add(key)
            ids.append(printable(image.path.removeprefix("./")))
            labels.append(sys.intern(label.text))
            typical.setdefault(label.is_number, (label.text, where))
            which.append(number)
            offsets.append(image.offset)
            lengths.append(image.length)
        if not which or which[-1] != number:
            raise DataError(f"{file} holds no samples, such as 03.jpg with 03.cls. Leave it out, or download it again.")
    if len(typical) > 1:
        (name, first), (figure, second) = typical[False], typical[True]
        raise DataError(
            f"labels mix numbers and names: {figure} in {second}, but {name!r} in {first}. Use one of them."
        )
    classes = classes_of(labels, shards.beside([CLASSES_FILE]))
    shard_of = np.array(which, np.int32)
    return Listing(
        kind="tar shards",
        location=shards.folder,
        class_names=classes.names,
        ids=_unique(ids, which, shards.names),
        labels=classes.labels,
        contents=FileParts(shards.files, shard_of, np.array(offsets, np.int64), np.array(lengths, np.int64)),
        splits=shards.image_splits(shard_of),
        origins=shards.origins(),
        class_order=classes.order,
        notes=shards.notes,
        cost=shards.cost("headers of ", len(ids)),
    )


def _unique(ids: list[str], which: Sequence[int], names: Sequence[str]) -> list[str]:
    """Return the ids, prefixed with their shard's name if splits share some."""
    if len(set(ids)) == len(ids):
        return ids
    stems = [printable(SHARD.sub("", name)) for name in names]
    return [f"{stems[number]}/{name}" for number, name in zip(which, ids, strict=True)]


def _members(file: Path) -> Iterator[Member]:
    """Yield the members of samples in file order, with the contents of labels.

    Raises DataError if the file is not a tar, is compressed or cut off, or holds links or sparse files.
    """
    with os_errors_as(DataError, f"cannot read {file}"), file.open("rb") as stream:
        _refuse_compressed(stream.read(8), file)
        stream.seek(0)
        size = os.fstat(stream.fileno()).st_size
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (entry := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all members in memory
                    named = _sample_member(entry, file)
                    if not entry.offset_data <= entry.offset_data + entry.size <= size:
                        raise tarfile.ReadError(f"{printable(entry.name)} extends beyond the end of the file")
                    if named is not None:
                        text = _text(stream, entry, named[1], file)
                        yield Member(entry.name, *named, entry.offset_data, entry.size, text)
                stream.seek(tar.offset)
                end = stream.read(END_BYTES)
                if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):  # tarfile stops here silently
                    raise tarfile.ReadError(f"no end of the archive at byte {tar.offset}")
        except DAMAGE as error:
            raise DataError(
                f"{file} is not a complete tar file ({error}): cut off, damaged or several in one. "
                "Download or write it again."
            ) from None


def _refuse_compressed(start: bytes, file: Path) -> None:
    for magic, unpack in PACKERS.items():
        if start.startswith(magic):
            raise DataError(
                f"{printable(file)} is compressed, which does not allow reading single images. Unpack every "
                f"shard first: {unpack} {shlex.quote(str(file))}"
            )


def _sample_member(entry: tarfile.TarInfo, file: Path) -> tuple[str, str] | None:
    """Return key and extension of a member; None for folders and for files that belong to no sample."""
    named = SAMPLE_MEMBER.fullmatch(entry.name)
    if named is None or entry.isdir():
        return None
    if not entry.isreg() or entry.issparse():
        kind = "sparse file" if entry.issparse() else "link or device"
        raise DataError(
            f"member {printable(entry.name)} of {file} is a {kind}, not a plain file. Write the shard again with "
            "--dereference --hard-dereference, and without --sparse."
        )
    return named[1], named[2].lower()


def _image(members: list[Member], image_key: str | None, where: str) -> Member:
    """Return the image of a sample, by extension: `image_key` ("left.png", or "jpg;png" for either), or any."""
    asked = image_key.lower().split(";") if image_key else None
    images = [
        member
        for member in members
        if (member.extension in asked if asked else f".{member.extension.rpartition('.')[2]}" in EXTENSIONS)
    ]
    if not images:
        allowed = ", ".join(asked or sorted(EXTENSIONS))
        raise DataError(f"{where} has no image ({allowed}), only {_extensions(members)}. {ADJACENT}")
    if len(images) > 1:
        raise DataError(
            f"{where} has {len(images)} images: {_extensions(images)}. Choose one: --image-key {images[0].extension}. "
            f"{KEY_RULE}"
        )
    return images[0]


def _label(members: list[Member], label_key: str | None, where: str) -> Label:
    """Return the label of a sample: `label_key` is the extension of its member, or a key of its .json."""
    extensions = LABELS if label_key is None else (label_key,) if label_key in LABELS else ("json",)
    keys = JSON_LABELS if label_key is None or label_key in LABELS else (label_key,)
    candidates = [member for member in members if member.extension in extensions]
    found = [(member, label) for member in candidates if (label := _read_label(member, keys, where)) is not None]
    if not found:
        wanted = label_key or f"cls, txt, or json with {' or '.join(JSON_LABELS)}"
        raise DataError(f"{where} has no label ({wanted}), only {_extensions(members)}. {ADJACENT}")
    if len(found) > 1:
        labels = [member for member, _ in found]
        raise DataError(
            f"{where} has {len(found)} labels: {_extensions(labels)}. Choose one: --label-key {labels[0].extension}. "
            f"{KEY_RULE}"
        )
    return found[0][1]


def _read_label(member: Member, keys: tuple[str, ...], where: str) -> Label | None:
    """Read the label from a member; None if it is JSON without any of the keys."""
    try:
        text = member.text.decode("utf-8-sig").rstrip("\r\n")
        value = json.loads(text) if member.extension == "json" else text
        if isinstance(value, dict):
            if (key := next((key for key in keys if key in value), None)) is None:
                return None
            value = value[key]
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise ValueError(f"the label is {reprlib.repr(value)}, not a name or an integer")
        if member.extension == "cls" and INTEGER.fullmatch(text.strip()):
            value = int(text)
        str(value).encode()  # fails for lone surrogates, which JSON can write
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its .{member.extension} cannot be read as a label: {error}.") from None
    return Label(str(value), isinstance(value, int))


def _text(stream: BinaryIO, entry: tarfile.TarInfo, extension: str, file: Path) -> bytes:
    if extension not in LABELS:
        return b""
    if entry.size > LABEL_BYTES:
        raise DataError(f"member {printable(entry.name)} of {file} is too large for a label: {entry.size:,} bytes.")
    stream.seek(entry.offset_data)
    return stream.read(entry.size)


def _extensions(members: list[Member]) -> str:
    return listed(f".{member.extension}" for member in members)
