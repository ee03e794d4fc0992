"""TFRecord shards of tf.train.Example: an encoded image and its label in every record.

One pass over the shards indexes the position of every image; later reads use the index.
"""

import os
import re
import reprlib
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from hyperrule.data.images import FileParts
from hyperrule.data.listing import DataRequest, Listing
from hyperrule.data.sources.image_folder import CLASSES_FILE
from hyperrule.data.sources.shards import Classes, classes_of, find_shards
from hyperrule.data.sources.tfexample import Record, records
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import printable

ENDING = re.compile(r"\.(tfrecords?|tfrec)$", re.IGNORECASE)
SHARD = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?$|-\d+-of-\d+(\.gz)?$", re.IGNORECASE)
IMAGE_KEYS = ("image/encoded", "image", "image_raw")
NUMBER_KEY, NAME_KEY = "image/class/label", "image/class/text"
LABEL_KEYS = (NUMBER_KEY, "label", NAME_KEY)
FILENAME_KEY = "image/filename"
CLASS_FILES = (CLASSES_FILE, "label.labels.txt")


def list_tfrecords(request: DataRequest, reporter: Reporter) -> Listing:
    """List every record in shard order. Raises DataError for a record without exactly one image and one label.

    ids are image/filename if these are unique, else shard/number.
    """
    shards = find_shards(request, SHARD, "train-00000-of-00010.tfrecord")
    classes_file = shards.beside(CLASS_FILES)
    which, offsets, lengths = array("i"), array("q"), array("q")
    filenames: list[str] = []
    labels: list[str | int] = []
    texts: dict[str, str] = {}  # image/class/text of each label; empty if it varies
    image_key = label_key = ""
    for number, file in shards.scanned(reporter):
        for record in records(file):
            if not labels:
                image_key = _key(record, request.image_key, IMAGE_KEYS, "image")
                label_key = _key(record, request.label_key, LABEL_KEYS, "label")
            offset, length = record.place(image_key)
            label = _label(record, label_key)
            if labels and type(label) is not type(labels[0]):
                raise DataError(f"labels mix numbers and names: {labels[0]!r} before {record}, {label!r} in it.")
            text = _text(record, NAME_KEY)
            if texts.setdefault(str(label), text) != text:
                texts[str(label)] = ""
            which.append(number)
            offsets.append(offset)
            lengths.append(length)
            filenames.append(_text(record, FILENAME_KEY))
            labels.append(label)
        if not which or which[-1] != number:
            raise DataError(f"{file} holds no records. Leave it out, or download it again.")
    classes = classes_of([str(label) for label in labels], classes_file)
    notes = shards.notes
    if label_key == NUMBER_KEY and classes_file is None:
        classes, more = _named(classes, texts)
        notes += more
    shard_of = np.array(which, np.int32)
    return Listing(
        kind="TFRecord shards",
        location=shards.folder,
        class_names=classes.names,
        ids=filenames if all(filenames) and len(set(filenames)) == len(filenames) else _numbered(shards.names, which),
        labels=classes.labels,
        contents=FileParts(shards.files, shard_of, np.array(offsets, np.int64), np.array(lengths, np.int64)),
        splits=shards.image_splits(shard_of),
        origins=shards.origins(),
        class_order=classes.order,
        notes=notes,
        cost=shards.cost("", len(labels)),
    )


def _key(record: Record, asked: str | None, usual: Sequence[str], what: str) -> str:
    """Return the key of the image or the label: the requested one, else the first usual one in the record."""
    keys = record.keys()
    for key in [asked] if asked else usual:
        if key in keys:
            return key
    wanted = f"no key {asked!r}" if asked else f"none of the usual keys of {what}s ({', '.join(usual)})"
    raise DataError(f"{record} has {wanted}. It has: {', '.join(keys) or 'no keys'}. Choose one: --{what}-key KEY")


def _label(record: Record, key: str) -> int | str:
    values = record.feature(key)
    if values is None or len(values) != 1 or isinstance(values[0], float):
        received = (
            f"no {key!r}, only {', '.join(record.keys())}" if values is None else f"{key!r} {reprlib.repr(values)}"
        )
        raise DataError(f"{record} has {received}. A label is one integer, or one text.")
    if isinstance(values[0], int):
        return values[0]
    try:
        return sys.intern(values[0].decode())
    except UnicodeDecodeError:
        raise DataError(f"{record}: label {reprlib.repr(values[0])} is not UTF-8 text.") from None


def _text(record: Record, key: str) -> str:
    """Return the key's value as printable text; empty if there is none."""
    values = record.feature(key)
    return printable(os.fsdecode(values[0])) if values and isinstance(values[0], bytes) else ""


def _named(classes: Classes, texts: Mapping[str, str]) -> tuple[Classes, tuple[str, ...]]:
    """Rename numeric classes to their texts if these are complete and unique; return notes if they are not."""
    names = tuple(texts[number] for number in classes.names)
    if all(names) and len(set(names)) == len(names):
        return replace(classes, names=names, order=f"that of {NUMBER_KEY}"), ()
    if not any(names):
        return classes, ()
    return classes, (f"{NAME_KEY} does not name every {NUMBER_KEY} uniquely, so classes are named by number",)


def _numbered(names: Sequence[str], which: Sequence[int]) -> list[str]:
    """Return ids shard/number, where the number counts records within the shard."""
    stems = [printable(ENDING.sub("", name)) for name in names]
    return [f"{stems[shard]}/{i:06}" for shard, images in groupby(which) for i, _ in enumerate(images)]
