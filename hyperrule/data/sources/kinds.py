"""The kinds of data set that `--dataset` accepts, and how to recognise them."""

import os
import re
import tarfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from hyperrule.data.listing import SPLIT_NAMES, DataRequest, Listing
from hyperrule.data.sources.archive import is_archive, unpacked
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter


@dataclass(frozen=True)
class Kind:
    """A kind of data set: its name, an example of what the user types, and its description."""

    name: str
    typed: str
    explained: str
    fetches: bool = False  # may download; uses --data-dir
    has_keys: bool = True  # whether --image-key and --label-key apply
    extra: str = ""  # needed: pip install 'hyperrule[EXTRA]'


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "image folder",
            "photos",
            "CLASS/*.jpg or {train,val,test}/CLASS/*.jpg, nested to any depth; classes.txt sets the order of classes",
            has_keys=False,
        ),
        Kind(
            "archive",
            "photos.zip",
            "an image folder as .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz; unpacked once into the cache",
            has_keys=False,
        ),
        Kind(
            "manifest",
            "images.csv",
            "table of path, label and, optionally, split: CSV, TSV, JSONL or Parquet; paths relative to the table",
        ),
        Kind(
            "arrays",
            "images.npz",
            "uint8 images [N, height, width(, 3)] and labels: x_train, y_train, x_test, y_test or images, labels; or "
            "a .npy with its labels in a .npy beside it",
        ),
        Kind(
            "tar shards",
            "'shards/{train,test}-{0000..0009}.tar'",
            "WebDataset layout: 0001.jpg with 0001.cls, .txt or .json; braces, a glob or a folder of shards",
        ),
        Kind(
            "TFRecord shards",
            "'records/train-*.tfrecord'",
            "tf.train.Example with image/encoded and image/class/label, or the keys set by --image-key and --label-key",
        ),
        Kind(
            "TFDS",
            "tfds:oxford_flowers102",
            "TensorFlow Datasets: tfds:NAME/CONFIG:VERSION, prepared in --data-dir or downloaded",
            fetches=True,
        ),
        Kind(
            "VTAB-1k",
            "vtab:pets",
            "a task of VTAB-1k, from data that TFDS prepares: 1,000 training images and the whole test set, to report; "
            "vtab:pets@choose: 800 to train on and 200 to tune hyper-parameters on. The tasks: caltech101, cifar100, "
            "dtd, flowers102, pets, sun397, svhn, eurosat, patch-camelyon, resisc45, retinopathy, clevr-count, "
            "clevr-distance, dmlab, dsprites-location, dsprites-orientation, kitti-distance, snorb-azimuth, "
            "snorb-elevation",
            fetches=True,
            has_keys=False,
        ),
        Kind(
            "Hugging Face",
            "hf:food101",
            "Hugging Face datasets by name, or the folder that save_to_disk wrote",
            fetches=True,
            extra="hf",
        ),
        Kind(
            "digits",
            "digits",
            "1,797 handwritten digits, 8 x 8 pixels, installed with hyperrule: for a first try",
            has_keys=False,
        ),
    )
}
PREFIXES = {"tfds:": "TFDS", "vtab:": "VTAB-1k", "hf:": "Hugging Face"}
FOLDERS_TOO = ("tfds:", "hf:")  # the name may also be a path
MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
ARRAYS = (".npz", ".npy")
TFRECORDS = (".tfrecord", ".tfrecords", ".tfrec")
NUMBERED = re.compile(r"-\d{5}-of-\d{5}$")  # shards of TFRecords without a suffix
LABEL_SUFFIXES = (".cls", ".txt", ".json")  # of WebDataset
FIRST_MEMBERS = 20  # enough to distinguish a packed folder from a shard


def list_images(request: DataRequest, reporter: Reporter, fetch: bool = True) -> Listing:
    """List the images of a data set of any kind; with `fetch`, download it if it is missing.

    Raises DataError if the data set does not exist or cannot be used.
    """
    path = Path(os.path.expanduser(request.dataset))
    kind = kind_of(request.dataset)
    _refuse_ignored(request, kind)
    if kind.name == "archive":
        request = replace(request, dataset=str(unpacked(path, reporter)))
    listing = _listing(kind, request, reporter, fetch)
    if request.splits and not listing.splits:
        option = f"--{next(iter(request.splits))}-split"
        raise DataError(f"{option} does not apply to {request.dataset} ({kind.name}): it has no splits. Leave it out.")
    return listing


def _listing(kind: Kind, request: DataRequest, reporter: Reporter, fetch: bool) -> Listing:
    """List by kind. Imports only what the kind needs: some libraries take seconds to load."""
    match kind.name:
        case "image folder" | "archive":
            from hyperrule.data.sources.image_folder import list_image_folder

            return list_image_folder(request, reporter)
        case "manifest":
            from hyperrule.data.sources.manifest import list_manifest

            return list_manifest(request, reporter)
        case "arrays":
            from hyperrule.data.sources.arrays import list_arrays

            return list_arrays(request, reporter)
        case "digits":
            from hyperrule.data.sources.arrays import list_digits

            return list_digits(request, reporter)
        case "tar shards":
            from hyperrule.data.sources.webdataset import list_tar_shards

            return list_tar_shards(request, reporter)
        case "TFRecord shards":
            from hyperrule.data.sources.tfrecords import list_tfrecords

            return list_tfrecords(request, reporter)
        case "TFDS":
            from hyperrule.data.sources.tfds import list_tfds

            return list_tfds(request, reporter, fetch)
        case "VTAB-1k":
            from hyperrule.data.sources.vtab import list_vtab

            return list_vtab(request, reporter, fetch)
        case "Hugging Face":
            from hyperrule.data.sources.huggingface import list_huggingface

            return list_huggingface(request, reporter, fetch)
        case name:
            raise ValueError(f"no source lists {name}")


def is_name(dataset: str) -> bool:
    """Return whether the data set is given by a name, not by a path."""
    return dataset.startswith(tuple(PREFIXES)) or (dataset == "digits" and not Path(dataset).exists())


def located(dataset: str) -> str:
    """Make paths absolute, also after a prefix, so that the data set is found from any working directory."""
    prefix = next((prefix for prefix in PREFIXES if dataset.startswith(prefix)), "")
    path = os.path.expanduser(dataset.removeprefix(prefix))
    if is_name(dataset) and not (prefix in FOLDERS_TOO and os.path.isdir(path)):
        return dataset
    return prefix + os.path.abspath(path)


def kind_of(dataset: str) -> Kind:
    """Return the kind of `dataset`. Raises DataError if it is of no known kind."""
    path = Path(os.path.expanduser(dataset))
    name = path.name.lower()
    if is_name(dataset):
        return KINDS[next((kind for prefix, kind in PREFIXES.items() if dataset.startswith(prefix)), "digits")]
    if path.is_dir():
        return _kind_of_folder(path)
    if path.is_file() or not path.exists():  # opening a pipe would wait for ever
        for suffixes, kind in ((MANIFESTS, "manifest"), (ARRAYS, "arrays")):
            if name.endswith(suffixes):
                return KINDS[kind]
        if _is_tfrecord(name):
            return KINDS["TFRecord shards"]
        is_pattern = bool(set(dataset) & set("*?[{")) and not path.exists()
        if (".tar" in name and is_pattern) or (name.endswith(".tar") and _is_sharded(path)):
            return KINDS["tar shards"]
        if is_archive(path):
            return KINDS["archive"]
    what = "is neither a folder nor a known kind of file" if path.exists() else "does not exist"
    raise DataError(
        f"data set {dataset} {what}. Give a folder of class folders with images, 'digits', or one of: "
        f"{', '.join(kind.typed for kind in KINDS.values() if kind.name not in ('digits', 'image folder'))}. "
        "'hyperrule datasets' describes them."
    )


def _refuse_ignored(request: DataRequest, kind: Kind) -> None:
    """Raise DataError for options that this kind would silently ignore."""
    for option, value, applies in (
        ("--data-dir", request.data_dir, kind.fetches),
        ("--image-key", request.image_key, kind.has_keys),
        ("--label-key", request.label_key, kind.has_keys),
    ):
        if value is not None and not applies:
            takers = " and ".join(other.name for other in KINDS.values() if other.fetches)
            only = f"it is for {takers}" if option == "--data-dir" else "it has neither columns nor features"
            raise DataError(f"{option} does not apply to {request.dataset} ({kind.name}): {only}. Leave it out.")


def _kind_of_folder(folder: Path) -> Kind:
    """Decide by the files in the folder or in its split folders: shards, output of save_to_disk, or images."""
    try:
        roots = [folder, *(child for child in folder.iterdir() if child.name.lower() in SPLIT_NAMES and child.is_dir())]
        files = {entry.name.lower() for root in roots for entry in os.scandir(root) if entry.is_file()}
    except OSError as error:
        raise DataError(f"cannot read data set folder {folder}: {(error.strerror or str(error)).lower()}.") from None
    if {"dataset_dict.json", "state.json"} & files:
        return KINDS["Hugging Face"]
    if any(map(_is_tfrecord, files)):
        return KINDS["TFRecord shards"]
    if any(name.endswith(".tar") for name in files):
        return KINDS["tar shards"]
    return KINDS["image folder"]


def _is_tfrecord(name: str) -> bool:
    return any(suffix in name for suffix in TFRECORDS) or NUMBERED.search(name) is not None


def _is_sharded(file: Path) -> bool:
    """Return whether the first members of a tar include labels: then it is a shard, not a packed folder."""
    try:
        with tarfile.open(file, "r:") as tar:
            return any(Path(member.name).suffix in LABEL_SUFFIXES for member in islice(tar, FIRST_MEMBERS))
    except (OSError, tarfile.TarError):
        return False
