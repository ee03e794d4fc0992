"""Write WebDataset shards, two a split: each image with its class name in a .txt."""

import io
import tarfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from writers import LabelledImage


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    for split in dict.fromkeys(image.split for image in images):
        members = [image for image in images if image.split == split]
        half = (len(members) + 1) // 2
        for number, part in enumerate((members[:half], members[half:])):
            if part:
                shard(folder / f"{split}-{number:04}.tar", [member for image in part for member in sample(image)])
    return {"dataset": str(folder)}


def sample(image: LabelledImage) -> list[tuple[str, bytes]]:
    """Return the tar members of one image. The key hashes the class name, which may hold dots and slashes."""
    key = f"{sha256(image.class_name.encode()).hexdigest()[:8]}/{image.name.partition('.')[0]}"
    return [(f"{key}.{image.name.rpartition('.')[2]}", image.encoded), (f"{key}.txt", image.class_name.encode())]


def shard(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Write a tar of files (name, content) and return its path."""
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file
