"""Image files on the command line and in labelled folders, and why one cannot be decoded; no TensorFlow."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hyperrule.data import open_source
from hyperrule.data.dataset_info import Split
from hyperrule.data.image_folder import EXTENSIONS, FORMATS, SPLIT_FOLDERS
from hyperrule.errors import DataError
from hyperrule.wording import listed

Contents = Sequence[Path] | Sequence[bytes]
BY_DEFAULT: tuple[Split, ...] = ("test", "validation", "train")  # the first that a data set has


@dataclass(frozen=True)
class LabelledImages:
    """Encoded images (their files, or their bytes) with the name of the class that each belongs to.

    `split` is None where the images are not split. `ids` are paths within the data set.
    """

    name: str
    split: Split | None
    ids: Sequence[str]
    class_names: Sequence[str]
    contents: Contents


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files among the paths, and all image files in the folders, by name. Raises DataError if there is no image
    at all or a path does not exist."""
    given = list(paths)
    if missing := [printable(path) for path in given if not path.exists()]:
        raise DataError(f"no such image or folder: {listed(missing)}.")
    found = [image for path in given for image in (image_files(path) if path.is_dir() else [path])]
    if not found:
        received = f"no image in {listed(map(printable, given))}" if given else "nothing"
        raise DataError(
            f"give images, or folders with them. Received: {received}. "
            f"Of folders, these files count: {', '.join(sorted(EXTENSIONS))}."
        )
    return found


def image_files(folder: Path) -> Iterator[Path]:
    """All image files in the folder and those below, in the order of their names; names with a "." before them
    do not count."""
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # links can lead in a circle
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith("."):
                yield Path(parent, name)


def labelled_images(dataset: str, split: Split | None) -> LabelledImages:
    """Images of "digits" or of a folder of class folders: all of them where they are not split, else those of
    `split`, by default of the first of test, validation and train that there is.

    Unlike for training, one class is enough, and one image. Raises DataError if there is none, or no such split.
    """
    if dataset == "digits":
        return _digits(dataset, split)
    folder = Path(os.path.expanduser(dataset))
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data set folder {folder} {kind}. Give a folder of class folders with images, or 'digits'.")
    roots = _split_roots(folder)
    chosen = _chosen(dataset, split, list(roots))
    root = folder if chosen is None else roots[chosen]
    files = [(child.name, file) for child in _folders(root) for file in image_files(child)]
    if not files:
        raise DataError(
            f"{root} holds no class folder with images. "
            f"Received: {listed(sorted(map(printable, root.iterdir()))) or 'an empty folder'}."
        )
    ids = [printable(file.relative_to(folder)) for _, file in files]
    return LabelledImages(dataset, chosen, ids, [name for name, _ in files], [file for _, file in files])


def why_undecodable(content: Path | bytes) -> str:
    """What is wrong with an image that TensorFlow has not decoded."""
    try:
        encoded = content if isinstance(content, bytes) else content.read_bytes()
        if not encoded:
            return "empty file"
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            kind = image.format
            image.load()
    except UnidentifiedImageError:
        return f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return reason or " ".join(str(error).split())
    return f"a kind of {kind} that TensorFlow does not read; save it as PNG"


def printable(path: Path) -> str:
    """The path with bytes that are not UTF-8 written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _digits(dataset: str, split: Split | None) -> LabelledImages:
    source = open_source(dataset)
    chosen = _chosen(dataset, split, list(source.info.splits))
    assert chosen is not None  # digits are split
    examples = source.examples(chosen)
    names = [source.info.class_names[label] for label in examples.labels]
    return LabelledImages(dataset, chosen, examples.ids, names, examples.contents)


def _chosen(dataset: str, asked: Split | None, there: list[Split]) -> Split | None:
    if asked is not None and asked not in there:
        has = f"only {' and '.join(there)}" if there else "no splits; leave --split out to take every image"
        raise DataError(f"{dataset} has no images for {asked}: it has {has}.")
    return asked or next((split for split in BY_DEFAULT if split in there), None)


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _split_roots(folder: Path) -> dict[Split, Path]:
    """Folders of the splits, or nothing when the classes lie directly in the folder."""
    roots: dict[Split, Path] = {}
    for child in _folders(folder):
        split = SPLIT_FOLDERS.get(child.name.lower())
        if split is not None and (other := roots.setdefault(split, child)) is not child:
            raise DataError(f"{folder} has two folders for the {split} split: {other.name} and {child.name}.")
    return roots
