"""Files of the public BiT bucket: downloaded once, and verified by SHA-256 at every later use. No TensorFlow."""

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pooch
from pydantic import BaseModel, TypeAdapter

from hyperrule.backbones.fetch.http import backbone_errors, complete
from hyperrule.backbones.zoo import BUCKET
from hyperrule.errors import BackboneError
from hyperrule.support.files import cache_folder, file_lock, os_errors_as, write_text
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import one_line


@dataclass(frozen=True)
class Weights:
    """A file and its SHA-256, so that callers need not hash gigabytes again."""

    path: Path
    sha256: str


class Record(BaseModel):
    """What the cache records of a file; `url` is None if the user put it there."""

    sha256: str
    bytes: int
    url: str | None


def cached(file: str) -> Path | None:
    """Return the path of a cached file of the bucket ("BiT-M-R50x1.npz", "distill/R50x1_160.npz"), or None."""
    path = _folder() / file
    return path if path.is_file() else None


def fetch(file: str, reporter: Reporter) -> Weights:
    """Return a file of the bucket, or of the mirror HYPERRULE_BIT_MIRROR; download it if it is missing.

    An interrupted download leaves FILE.part, from which the next call continues. Raises BackboneError if the file
    cannot be downloaded, or has changed since its first use.
    """
    if cached(file) is not None:
        return verified(file)
    folder = _folder()
    url = f"{(os.environ.get('HYPERRULE_BIT_MIRROR') or BUCKET).rstrip('/')}/{file}"
    put = f"put it at {folder / file} (or set HYPERRULE_BIT_MIRROR), or give its path with --backbone"

    def download(_url: str, target: str, _pooch: object) -> None:
        part = folder / f"{file}.part"
        complete(part, url, reporter)
        if not zipfile.is_zipfile(part):
            part.unlink()
            raise OSError("what the server sent is not a .npz file")
        os.replace(part, target)

    pooch.get_logger().setLevel("WARNING")
    bucket = pooch.Pooch(folder, base_url="", registry={file: None}, urls={file: url})
    one_line_errors = backbone_errors(f"cannot download {url}", f"download the file yourself: {put}")
    with one_line_errors, file_lock(folder / ".download", reporter):
        bucket.fetch(file, downloader=download)
    return verified(file, url)


def verified(file: str, url: str | None = None) -> Weights:
    """Return the cached file with its SHA-256, recorded with `url` at first use and compared at every later one.

    Raises BackboneError if the hashes differ, if the file cannot be read, or if it is incomplete at first use.
    """
    path = _folder() / file
    with os_errors_as(BackboneError, f"cannot read {path}"), path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    known = _records().get(file)
    if known is None:
        if not zipfile.is_zipfile(path):
            raise BackboneError(f"{path} is not a complete .npz file; delete it to download it again.")
        _record(file, Record(sha256=sha256, bytes=path.stat().st_size, url=url))
    elif known.sha256 != sha256:
        raise BackboneError(
            f"{path} has SHA-256 {sha256[:12]}, but had {known.sha256[:12]} when it was first used. Delete the file to "
            f"download it again, or its line in {_record_file()} if the change is intended."
        )
    return Weights(path, sha256)


def _folder() -> Path:
    return cache_folder() / "weights"


def _record_file() -> Path:
    return _folder() / "weights.lock.json"


def _records() -> dict[str, Record]:
    file = _record_file()
    if not file.exists():
        return {}
    try:
        # A user who deletes the last line leaves a comma before it.
        text = re.sub(r",\s*}\s*$", "}", file.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, Record]).validate_json(text)
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file} cannot be read: {one_line(error)}. Repair or delete it.") from None


def _record(file: str, record: Record) -> None:
    with os_errors_as(BackboneError, f"cannot record {file}"), file_lock(_folder() / ".record"):
        records = sorted((_records() | {file: record}).items())
        lines = ",\n".join(f"{json.dumps(name)}: {each.model_dump_json()}" for name, each in records)
        write_text(_record_file(), f"{{\n{lines}\n}}\n")
