"""A folder of labelled images: `CLASS/*.jpg`, or `{train,val|validation,test}/CLASS/*.jpg`.

Classes are sub-folders in the order of their names as text ("10" before "2"); examples are in the
order of class, then file name. Sub-folders and files whose names start with "." do not count.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from hyperrule.data.dataset_info import DatasetInfo, Examples, Split, SplitInfo
from hyperrule.data.subset import hold_out
from hyperrule.errors import DataError
from hyperrule.wording import listed

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
TRAIN: Split = "train"
FILES_PER_TASK = 256  # one small file is less work than handing it to a thread


@dataclass(frozen=True)
class ImageFile:
    id: str
    path: Path
    split: Split
    class_name: str
    sha256: str = ""
    height: int = 0
    width: int = 0
    problem: str = ""


class ImageFolder:
    """Opens the folder, reads every file once (bytes hashed, header parsed; decoded with `skip_corrupt`).

    Raises DataError for a missing folder, fewer than two classes, a class without enough images, and
    files that are not images unless `skip_corrupt`, which leaves them out and lists them in
    `info.skipped`.
    """

    def __init__(self, folder: Path, name: str, split_seed: int, skip_corrupt: bool) -> None:
        self.folder = folder
        self.name = name
        self.split_seed = split_seed
        self.skip_corrupt = skip_corrupt

    @cached_property
    def info(self) -> DatasetInfo:
        splits = self._splits
        images = [image for split in splits.values() for image in split]
        by_area = sorted(images, key=lambda image: (image.height * image.width, image.height))
        median = by_area[len(by_area) // 2]
        digest = hashlib.sha256()
        for split, members in splits.items():
            for image in members:
                digest.update(f"{split}\t{image.class_name}\t{image.id}\t{image.sha256}\n".encode())
        return DatasetInfo(
            name=self.name,
            kind="image folder",
            location=str(self.folder.resolve()),
            class_names=self.class_names,
            splits={
                split: SplitInfo(
                    examples=len(members),
                    per_class=tuple(np.bincount(self._labels(members), minlength=len(self.class_names)).tolist()),
                    origin=self._origin(split),
                )
                for split, members in splits.items()
            },
            height=median.height,
            width=median.width,
            sha256=digest.hexdigest(),
            skipped={image.id: image.problem for image in self._files if image.problem},
            notes=tuple(self._notes()),
        )

    def examples(self, split: Split) -> Examples:
        members = self._splits[split]
        return Examples([image.id for image in members], self._labels(members), [image.path for image in members])

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the training images; every other split must stay within them."""
        roots = [self._split_roots["train"]] if self._split_roots else [self.folder]
        names = sorted({child.name for root in roots for child in _folders(root)})
        if len(names) < 2:
            raise DataError(
                f"{roots[0]} holds {len(names)} class folder{'s' if len(names) != 1 else ''}"
                f"{' (' + names[0] + ')' if names else ''}; at least 2 are needed, one folder of images a class. "
                + self._nested_hint(roots[0])
            )
        return tuple(names)

    @cached_property
    def _split_roots(self) -> dict[Split, Path]:
        """Folders of the splits, or nothing when the classes lie directly in the folder."""
        if not self.folder.is_dir():
            raise DataError(
                f"data set folder {self.folder} "
                f"{'is not a folder' if self.folder.exists() else 'does not exist'}. "
                "Give a folder of class folders with images, or 'digits'."
            )
        roots: dict[Split, Path] = {}
        for child in _folders(self.folder):
            if (split := SPLIT_FOLDERS.get(child.name.lower())) is not None:
                if split in roots:
                    raise DataError(
                        f"{self.folder} has two folders for the {split} split: {roots[split].name} and {child.name}."
                    )
                roots[split] = child
        if roots and "train" not in roots:
            raise DataError(
                f"{self.folder} has {', '.join(sorted(path.name for path in roots.values()))} but no train folder."
            )
        return {split: roots[split] for split in SPLIT_FOLDERS.values() if split in roots}

    @cached_property
    def _files(self) -> list[ImageFile]:
        """Every image file, inspected, in the order of split, class and name."""
        found = [
            ImageFile(_printable(f"{prefix}/{name}"), class_folder / name, split, class_folder.name)
            for split, root in (self._split_roots or {"train": self.folder}).items()
            for class_folder in _folders(root)
            for prefix in [class_folder.relative_to(self.folder).as_posix()]
            for name in sorted(entry.name for entry in os.scandir(class_folder) if _is_candidate(entry))
        ]
        # Decoding releases the interpreter lock; headers of small files do not, and go 3x slower on 2 threads.
        with ThreadPoolExecutor(max_workers=None if self.skip_corrupt else 1) as pool:
            chunks = [found[start : start + FILES_PER_TASK] for start in range(0, len(found), FILES_PER_TASK)]
            inspected = pool.map(lambda chunk: [_inspect(file, decode=self.skip_corrupt) for file in chunk], chunks)
            files = [file for chunk in inspected for file in chunk]
        corrupt = [file for file in files if file.problem]
        if corrupt and not self.skip_corrupt:
            raise DataError(
                f"{len(corrupt)} of {len(files)} files cannot be read as images: "
                f"{listed(f'{file.id} ({file.problem})' for file in corrupt)}. "
                "Repair or remove them, or leave them out with --skip-corrupt."
            )
        return files

    @cached_property
    def _splits(self) -> dict[Split, list[ImageFile]]:
        self._check_classes()
        good = [file for file in self._files if not file.problem]
        splits: dict[Split, list[ImageFile]] = {
            split: [file for file in good if file.split == split] for split in list(self._split_roots) or [TRAIN]
        }
        for split in splits:
            self._check_sizes(split, splits[split], least=1 if len(splits) > 1 else 2)
        if len(splits) == 1:
            train, test = hold_out(self._labels(splits["train"]), self.split_seed)
            splits = {"train": [good[i] for i in train], "test": [good[i] for i in test]}
        return splits

    def _check_classes(self) -> None:
        for root in self._split_roots.values():
            unknown = sorted({child.name for child in _folders(root)} - set(self.class_names))
            if unknown:
                raise DataError(f"{root} has classes that train does not have: {listed(map(repr, unknown))}.")

    def _check_sizes(self, split: Split, members: list[ImageFile], least: int) -> None:
        counts = np.bincount(self._labels(members), minlength=len(self.class_names)).tolist()
        small = [f"{name!r} ({count})" for name, count in zip(self.class_names, counts, strict=True) if count < least]
        if small and (split == "train" or not members):
            raise DataError(
                f"too few images in {split} for {listed(small)}; each class needs at least {least}"
                f"{' (one is held out for testing)' if least == 2 else ''}. "
                f"Files that count: {', '.join(sorted(EXTENSIONS))}."
            )

    def _origin(self, split: Split) -> str:
        if split in self._split_roots:
            return f"folder {self._split_roots[split].name}"
        share = "20 %" if split == "test" else "80 %"
        return f"{share} of each class, stratified, split seed {self.split_seed}"

    def _notes(self) -> Iterable[str]:
        names = self.class_names
        if sorted(names, key=lambda name: (len(name), name)) != list(names) and all(name.isdecimal() for name in names):
            yield f"class folders are numbers, ordered as text: {', '.join(names[:4])}, ..."
        roots = list(self._split_roots.values()) or [self.folder]
        ignored = sum(
            1
            for root in roots
            for class_folder in _folders(root)
            for entry in os.scandir(class_folder)
            if not entry.name.startswith(".") and not _is_candidate(entry)
        )
        if ignored:
            yield f"{ignored} entries of the class folders are not image files and are left out"

    def _nested_hint(self, root: Path) -> str:
        for child in _folders(root):
            if len(_folders(child)) >= 2:
                return f"Did you mean {child}?"
        return f"Received: {listed(sorted(child.name for child in root.iterdir())) or 'an empty folder'}."

    def _labels(self, members: list[ImageFile]) -> npt.NDArray[np.int32]:
        index = {name: label for label, name in enumerate(self.class_names)}
        return np.array([index[image.class_name] for image in members], np.int32)


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _printable(name: str) -> str:
    """The name with bytes that are not UTF-8 written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_candidate(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry claims to be an image."""
    extension = os.path.splitext(entry.name)[1].lower()
    return extension in EXTENSIONS and not entry.name.startswith(".") and entry.is_file()


def _inspect(file: ImageFile, decode: bool) -> ImageFile:
    try:
        str(file.path).encode()
        with file.path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            with Image.open(stream, formats=FORMATS) as image:
                if image.format == "BMP" and image.mode in ("1", "P"):
                    return replace(file, problem="BMP with a palette, which TensorFlow does not read; save it as PNG")
                if image.format == "WEBP" and getattr(image, "is_animated", False):
                    return replace(file, problem="animated WebP, which TensorFlow does not read; save it as PNG")
                if decode:
                    image.load()
                return replace(file, sha256=sha256, height=image.height, width=image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return replace(file, problem=_reason(file.path, error))


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "its name is not UTF-8"
    if isinstance(error, PermissionError):
        return "permission denied"
    if path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return str(error)
