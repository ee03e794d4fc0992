"""A folder of labelled images: `CLASS/*.jpg`, or `{train,val|validation,test}/CLASS/*.jpg`, nested to any depth.

Classes are ordered by folder name as text ("10" before "2"), unless `classes.txt` in the folder lists them in another
order, one name per line. Files and folders whose names start with "." are ignored.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from hyperrule.data.images import Files
from hyperrule.data.listing import AS_TEXT, DataRequest, Listing, Split, labels_of, split_by_name
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed, number, printable

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
CLASSES_FILE = "classes.txt"


def list_image_folder(request: DataRequest, reporter: Reporter) -> Listing:
    """List every image file by split, class and name. Raises DataError for no images or a wrong `classes.txt`."""
    folder = Path(os.path.expanduser(request.dataset))
    with os_errors_as(DataError, f"cannot read data set folder {folder}"):
        roots = _split_roots(folder, request)
        found: dict[Split, list[tuple[str, str]]] = {}
        other = 0
        for split, root in (roots or {"train": folder}).items():
            found[split] = []
            for class_folder in folders(root):
                images, others = image_files(class_folder)
                found[split] += [(class_folder.name, os.path.relpath(image, folder)) for image in images]
                other += others
        names = {child.name for root in (roots or {"train": folder}).values() for child in folders(root)}
    every = [row for rows in found.values() for row in rows]
    if not every:
        root = roots.get("train", folder)
        raise DataError(
            f"{root} holds no class folder with images. "
            f"Received: {listed(sorted(printable(child.name) for child in root.iterdir())) or 'an empty folder'}. "
            f"Image files end in: {', '.join(sorted(EXTENSIONS))}."
        )
    class_names, order = _class_names(folder, names)
    ends = np.cumsum([0, *map(len, found.values())])
    listing = Listing(
        kind="image folder",
        location=folder.resolve(),
        class_names=class_names,
        ids=[printable(name) for _, name in every],
        labels=labels_of([class_name for class_name, _ in every], class_names),
        contents=Files.of(folder.resolve(), [name for _, name in every]),
        class_order=order,
        notes=(f"left out: {number(other, 'file')} without the extension of an image",) if other else (),
    )
    if not roots:
        return listing
    return replace(
        listing,
        splits={split: np.arange(ends[number], ends[number + 1]) for number, split in enumerate(found)},
        origins={split: f"folder {root.name}" for split, root in roots.items()},
    )


def list_unlabelled(request: DataRequest) -> Listing | None:
    """List the images of a folder that has no sub-folders with images; None if it has, or has no images itself."""
    folder = Path(os.path.expanduser(request.dataset))
    with os_errors_as(DataError, f"cannot read data set folder {folder}"):
        if not any(child.suffix.lower() in EXTENSIONS for child in folder.iterdir() if not child.name.startswith(".")):
            return None
        images, other = image_files(folder)
        if any(image.parent != folder for image in images):
            return None
        names = [os.path.relpath(image, folder) for image in images]
    return Listing(
        kind="unlabelled folder",
        location=folder.resolve(),
        class_names=("",),
        ids=[printable(name) for name in names],
        labels=np.zeros(len(names), np.int32),
        contents=Files.of(folder.resolve(), names),
        notes=(f"left out: {number(other, 'file')} without the extension of an image",) if other else (),
    )


def image_files(folder: Path) -> tuple[list[Path], int]:
    """Return all image files in the folder and below, by name, and the number of other files."""
    images, others, visited = [], 0, set()
    for parent, below, files in os.walk(folder, followlinks=True, onerror=_raise):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # symbolic links can form a cycle
            below.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = os.path.join(parent, name)
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not _is_special(path):
                images.append(Path(path))
            else:
                others += 1
    return images, others


def folders(root: Path) -> list[Path]:
    """Return the sub-folders that are not hidden, by name."""
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _split_roots(folder: Path, request: DataRequest) -> dict[Split, Path]:
    """Return the folder of each split; empty if the class folders lie directly in `folder`."""
    children = {child.name: child for child in folders(folder)}
    return {split: children[name] for split, name in split_by_name(list(children), request, str(folder)).items()}


def _class_names(folder: Path, found: set[str]) -> tuple[tuple[str, ...], str]:
    """Return the ordered class names, and a description of their order."""
    file = folder / CLASSES_FILE
    if not file.is_file():
        names = tuple(sorted(found))
        numbers = all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int)
        example = f" ({', '.join(names[:4])}, ...; {CLASSES_FILE} in the folder can set another)" if numbers else ""
        return names, AS_TEXT + example
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    for wrong, what in (
        (repeated, "repeats"),
        (sorted(set(names) - found), "names classes that have no folder:"),
        (sorted(found - set(names)), "does not name the folders"),
    ):
        if wrong:
            raise DataError(f"{file} {what} {listed(map(repr, wrong))}. It must name each class folder once.")
    return names, f"that of {CLASSES_FILE}"


def _is_special(path: str) -> bool:
    """Return whether it is a pipe or a device, which could be read for ever. Broken links are reported later."""
    return not os.path.isfile(path) and os.path.exists(path)


def _raise(error: OSError) -> None:
    raise error
