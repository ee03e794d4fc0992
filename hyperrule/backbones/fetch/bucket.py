"""Files of the public BiT bucket, downloaded once and known by their SHA-256 from then on; no TensorFlow."""

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pooch
from pydantic import BaseModel, TypeAdapter

from hyperrule.backbones.fetch.http import complete, failures_told
from hyperrule.backbones.zoo import BUCKET
from hyperrule.errors import BackboneError
from hyperrule.support.files import atomic_write, cache_folder, file_lock, os_errors_as
from hyperrule.support.progress import Reporter


@dataclass(frozen=True)
class Weights:
    """A file and its SHA-256, so that nobody has to read gigabytes twice."""

    path: Path
    sha256: str


class Record(BaseModel):
    """What is remembered of a file; `url` is None for one that was put into the cache by hand."""

    sha256: str
    bytes: int
    url: str | None


def cached(file: str) -> Path | None:
    """Where a file of the bucket ("BiT-M-R50x1.npz", "distill/R50x1_160.npz") lies, if it is here; no network."""
    path = _folder() / file
    return path if path.is_file() else None


def fetch(file: str, reporter: Reporter) -> Weights:
    """The file of the bucket, or of the mirror HYPERRULE_BIT_MIRROR, downloaded if it is missing.

    A download that breaks leaves FILE.part, and the next call goes on from there. Raises BackboneError if the file
    cannot be had or is not the one of its first use.
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
            raise OSError("what the server sent is no .npz file")
        os.replace(part, target)

    pooch.get_logger().setLevel("WARNING")
    bucket = pooch.Pooch(folder, base_url="", registry={file: None}, urls={file: url})
    told = failures_told(f"cannot download {url}", f"bring the file yourself: {put}")
    with told, file_lock(folder / ".download", reporter):
        bucket.fetch(file, downloader=download)
    return verified(file, url)


def verified(file: str, url: str | None = None) -> Weights:
    """The cached file with its SHA-256, which is recorded at first use, with `url`, and compared at every later one.

    Raises BackboneError if the hashes differ, or if the file cannot be read or, at first use, is cut short.
    """
    path = _folder() / file
    with os_errors_as(BackboneError, f"cannot read {path}"), path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    known = _records().get(file)
    if known is None:
        if not zipfile.is_zipfile(path):
            raise BackboneError(f"{path} is no whole .npz file; delete it to fetch it again.")
        _record(file, Record(sha256=sha256, bytes=path.stat().st_size, url=url))
    elif known.sha256 != sha256:
        raise BackboneError(
            f"{path} has SHA-256 {sha256[:12]}, and had {known.sha256[:12]} when it was first used; delete the file "
            f"to fetch it again, or its line in {_record_file()} if the change is meant."
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
        # Whoever deletes the last line leaves a comma before it.
        text = re.sub(r",\s*}\s*$", "}", file.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, Record]).validate_json(text)
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"{file} cannot be read: {' '.join(str(error).split())[:200]}. Mend or delete it."
        ) from None


def _record(file: str, record: Record) -> None:
    with os_errors_as(BackboneError, f"cannot record {file}"), file_lock(_folder() / ".record"):
        records = sorted((_records() | {file: record}).items())
        lines = ",\n".join(f"{json.dumps(name)}: {each.model_dump_json()}" for name, each in records)
        with atomic_write(_record_file()) as partial:
            partial.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
