"""TF2 Hub modules: their handles, downloads, and the local folders of their SavedModels."""

import hashlib
import os
import re
import shutil
import tarfile
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hyperrule.backbones.fetch.http import backbone_errors, opened
from hyperrule.errors import BackboneError
from hyperrule.support.files import cache_folder, file_lock
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import size

SPELLINGS = {
    r"https?://.+": r"\g<0>",
    r"(tfhub\.dev|www\.kaggle\.com/models)/.+": r"https://\g<0>",
    r"([\w-]+/[\w-]+)/TensorFlow2/([\w.-]+/\d+)": r"https://www.kaggle.com/models/\1/TensorFlow2/\2",
    r"(google/bit|sayakpaul)(/[\w.-]+)+/\d+": r"https://tfhub.dev/\g<0>",
}


def as_handle(text: str) -> str | None:
    """Return the full URL of a module from any of its spellings, or None for anything else.

    >>> as_handle("google/bit/m-r50x1/1")
    'https://tfhub.dev/google/bit/m-r50x1/1'
    >>> as_handle("google/bit/tensorFlow2/m-r50x1/1")
    'https://www.kaggle.com/models/google/bit/TensorFlow2/m-r50x1/1'
    >>> as_handle("runs/photos/weights.npz")
    """
    for pattern, url in SPELLINGS.items():
        if (match := re.fullmatch(pattern, text.rstrip("/"), re.IGNORECASE)) is not None:
            return match.expand(url)
    return None


def module_folder(handle: str) -> Path:
    """Return tensorflow_hub's folder for the module, in TFHUB_CACHE_DIR or, by default, in hyperrule's cache folder."""
    cache = Path(os.environ.get("TFHUB_CACHE_DIR") or cache_folder() / "hub").absolute()
    return cache / hashlib.sha1(handle.encode()).hexdigest()


def cached(handle: str) -> Path | None:
    """Return the folder of the module's SavedModel, or None if it is not cached. No network, no TensorFlow."""
    return _saved_model(module_folder(handle))


def resolve(handle: str, reporter: Reporter) -> Path:
    """Return the folder of the module's SavedModel; download it into tensorflow_hub's cache if it is missing.

    `handle` is the URL of the module, as from `as_handle`. Raises BackboneError if the module cannot be downloaded or
    is incomplete.
    """
    if (model := cached(handle)) is not None:
        return model
    folder = module_folder(handle)
    archive = f"{handle}{'&' if '?' in handle else '?'}tf-hub-format=compressed"
    if folder.exists():
        raise BackboneError(f"{folder} holds no complete SavedModel; delete it, or unpack {archive} there.")
    instead = f"unpack {archive} to {folder}, or give the unpacked folder or the .tar.gz with --backbone"

    def download(_: str, into: str) -> None:
        with opened(archive, verify=os.environ.get("TFHUB_DISABLE_CERT_VALIDATION") != "true") as response:
            reporter.say(f"Downloading {handle} ({size(response.raw.length_remaining)}) to {folder}.")
            try:
                file_utils.extract_tarfile_to_destination(response.raw, into)
            except tarfile.ReadError:
                raise OSError(f"{archive} does not appear to be a valid module") from None

    # tensorflow_hub passes on any exception of requests, tarfile and TensorFlow.
    with backbone_errors(f"cannot download module {handle}", f"download it yourself: {instead}", Exception):
        file_utils, resolver = _of_tensorflow_hub()
        if (lock := folder.with_name(f"{folder.name}.lock")).exists():
            reporter.say(f"Another process is downloading {handle}. If none is, delete {lock}.")
        # Not `tensorflow_hub.resolve`: it depends on the environment, waits for a server without a timeout, and prints.
        resolver.create_local_module_dir(str(folder.parent), folder.name)
        resolver.atomic_download(handle, download, str(folder))
        if (model := cached(handle)) is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.descriptor.txt").unlink(missing_ok=True)
            raise OSError("what the server sent is not a complete SavedModel")
    return model


def unpack(archive: Path, reporter: Reporter) -> Path:
    """Return the folder of the SavedModel in a local .tar.gz, .tgz or .tar, unpacked once into the cache folder.

    Raises BackboneError if the archive is damaged, has members outside its folder, or holds no complete SavedModel.
    """
    with backbone_errors(f"cannot unpack {archive}", "fetch or copy it again", Exception):
        with archive.open("rb") as stream:
            folder = cache_folder() / "unpacked" / hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        with file_lock(folder.parent / ".lock", reporter):
            return _saved_model(folder) or _unpacked(archive, folder, reporter)


def _of_tensorflow_hub() -> tuple[Any, Any]:
    """Import the modules that unpack archives and fill the cache. Raises BackboneError if that fails."""
    try:
        with warnings.catch_warnings(action="ignore"):
            from tensorflow_hub import file_utils, resolver
    except ImportError as error:
        remedy = "pip install tensorflow_hub 'setuptools<82'"
        raise BackboneError(f"tensorflow_hub cannot be imported ({error}). Try: {remedy}") from None
    return file_utils, resolver


def _unpacked(archive: Path, folder: Path, reporter: Reporter) -> Path:
    reporter.say(f"Unpacking {archive} ({size(archive.stat().st_size)}) to {folder}.")
    with TemporaryDirectory(dir=folder.parent) as temporary, tarfile.open(archive) as tar:
        staging = Path(temporary, "module")
        tar.extractall(staging, filter="data")
        if (model := _saved_model(staging)) is None:
            raise OSError("it holds no complete SavedModel")
        shutil.rmtree(folder, ignore_errors=True)  # incomplete, or it would have been used
        os.rename(staging, folder)
        return folder / model.relative_to(staging)


def _saved_model(folder: Path) -> Path | None:
    """Return `folder` or a subfolder, whichever has a graph and all its weights; None if neither has.

    An archive that was cut between two files unpacks without an error, so all files are counted here.
    """
    for graph in (*folder.glob("saved_model.pb"), *folder.glob("*/saved_model.pb")):
        variables = graph.parent / "variables"
        shards = sorted(variables.glob("variables.data-*"))
        complete = bool(shards) and shards[-1].name.endswith(f"-of-{len(shards):05d}")
        if complete and (variables / "variables.index").is_file():
            return graph.parent
    return None
