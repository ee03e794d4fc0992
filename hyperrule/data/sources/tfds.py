"""TensorFlow Datasets: "tfds:NAME/CONFIG:VERSION", prepared as TFRecord files and read without TensorFlow."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperrule.data.images import FileParts, Indices
from hyperrule.data.label_safety import destroys_label
from hyperrule.data.listing import DataRequest, Listing
from hyperrule.data.sources.named_splits import OWN_ORDER, Span, chosen_key, chosen_splits, without_unlabelled
from hyperrule.data.sources.shards import Classes, classes_of
from hyperrule.data.sources.tfds_builder import PREFIX, prepared_builder, tensorflow_datasets
from hyperrule.data.sources.tfexample import Record, records
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed

ID_FEATURES = ("id", "file_name", "filename", "image/filename", "image_id")


def list_tfds(request: DataRequest, reporter: Reporter, fetch: bool = True) -> Listing:
    """List the images; ids are the data set's own if unique, else positions in the split, such as "train/00123".

    With `fetch`, a data set that is not prepared is downloaded and prepared. Raises DataError if the data set does not
    exist, cannot be prepared, has no images or no image-level labels, or if splits share images.
    """
    with os_errors_as(DataError, f"cannot read {request.dataset}"):
        builder = prepared_builder(request, reporter, fetch)
    data_set = PREFIX + builder.info.full_name
    image_key, label_key = _keys(builder, request, data_set)
    chosen = chosen_splits(request, sizes_of(builder), absolute(builder), data_set)
    rows = read_rows(builder, chosen.images, image_key, lambda record: _value(record, label_key), reporter)
    classes = _classes(features_of(builder)[label_key], rows.values)
    listing = Listing(
        kind="TFDS",
        location=Path(builder.data_dir).resolve(),
        class_names=classes.names,
        ids=rows.ids,
        labels=classes.labels,
        contents=rows.contents,
        splits=chosen.splits,
        origins=chosen.origins,
        class_order=classes.order,
        notes=chosen.notes,
        cost=rows.cost,
        destroys_label=destroys_label(builder.info.full_name, label_key),
    )
    return without_unlabelled(listing, request, data_set)


def features_of(builder: Any) -> dict[str, Any]:
    """Return the features by key, nested ones as "group/key"; sorted, as the file stores them in no fixed order."""
    groups = tensorflow_datasets().features.FeaturesDict

    def flat(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, feature in group.items():
            if isinstance(feature, groups):
                yield from flat(feature, f"{prefix}{key}/")
            else:
                yield f"{prefix}{key}", feature

    return dict(sorted(flat(builder.info.features, "")))


def _keys(builder: Any, request: DataRequest, data_set: str) -> tuple[str, str]:
    """Return the keys of the image and the label."""
    kinds = tensorflow_datasets().features
    features = features_of(builder)
    images, classes, others = [], [], []
    for key, feature in features.items():
        if isinstance(feature, kinds.Image) and not isinstance(feature, kinds.LabeledImage):
            images.append(key)
        elif isinstance(feature, kinds.ClassLabel):
            classes.append(key)
        elif feature.shape == () and (isinstance(feature, kinds.Text) or np.dtype(feature.np_dtype).kind in "iub"):
            others.append(key)
    supervised: tuple[Any, ...] = builder.info.supervised_keys or ()
    intended = supervised[1] if len(supervised) > 1 and isinstance(supervised[1], str) else ""
    classes.sort(key=lambda key: key != intended)
    image_key = chosen_key(request.image_key, ("image",), images, [], "image", data_set, list(features))
    label_key = chosen_key(
        request.label_key,
        ("label", *([intended] if not classes else [])),
        classes,
        others,
        "label",
        data_set,
        list(features),
    )
    if (dtype := np.dtype(features[image_key].np_dtype)) != np.uint8:
        raise DataError(f"feature {image_key!r} of {data_set} holds images of {dtype}; only uint8 can be read.")
    return image_key, label_key


def sizes_of(builder: Any) -> dict[str, int]:
    return {name: split.num_examples for name, split in builder.info.splits.items()}


@dataclass(frozen=True)
class Shard:
    """Images of a split from `position` on; the first one is number `first` across all splits."""

    file: Path
    split: str
    length: int
    first: int
    position: int


def _shards(builder: Any) -> Iterator[Shard]:
    first = 0
    for name, split in builder.info.splits.items():
        position = 0
        for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
            yield Shard(Path(file), name, length, first + position, position)
            position += length
        first += position


@dataclass(frozen=True)
class Rows:
    """Images with their labels as stored, integers or text; `cost` describes what was read to find them."""

    ids: list[str]
    values: list[int | str]
    contents: FileParts
    cost: str


def read_rows(
    builder: Any, images: Indices, image_key: str, label: Callable[[Record], int | str], reporter: Reporter
) -> Rows:
    """Read the images with numbers `images` (ascending), and their labels by `label(record)`.

    Shards have no index, so each is read up to its last wanted image.
    """
    shards = list(_wanted(_shards(builder), images))
    if missing := [shard.file.name for shard, _ in shards if not shard.file.is_file()]:
        raise DataError(
            f"{builder.data_dir} is incomplete: {len(missing)} of {len(shards)} files are missing: {listed(missing)}. "
            "Copy it again, or remove the folder to prepare it again."
        )
    named = next((key for key in ID_FEATURES if _is_text(features_of(builder).get(key))), "")
    names: list[str] = []
    values: list[int | str] = []
    offsets, lengths = array("q"), array("q")
    with reporter.stage("index", len(shards)) as report:
        for number, (shard, wanted) in enumerate(shards):
            for record in _records(shard, wanted):
                if named:
                    names.append(f"{shard.split}/{_value(record, named)}")
                values.append(label(record))
                offset, length = record.place(image_key)
                offsets.append(offset)
                lengths.append(length)
            report(number + 1, "shards")
    gigabytes = sum(shard.file.stat().st_size for shard, _ in shards) / 1e9
    usable = len(set(names)) == len(values) and all(map(str.isprintable, names))
    return Rows(
        names if usable else _positions(builder, shards),
        values,
        FileParts(
            tuple(shard.file for shard, _ in shards),
            np.repeat(np.arange(len(shards), dtype=np.int32), [len(wanted) for _, wanted in shards]),
            np.array(offsets),
            np.array(lengths),
        ),
        f"{len(shards)} shards, {gigabytes:.3g} GB, were read to index {len(values):,} images",
    )


def _positions(builder: Any, shards: Iterable[tuple[Shard, Indices]]) -> list[str]:
    digits = {split: max(5, len(str(size - 1))) for split, size in sizes_of(builder).items()}
    return [
        f"{shard.split}/{shard.position + place:0{digits[shard.split]}d}"
        for shard, wanted in shards
        for place in wanted
    ]


def _wanted(shards: Iterable[Shard], images: Indices) -> Iterator[tuple[Shard, Indices]]:
    """Yield shards that hold wanted images, with their positions in the shard, ascending."""
    for shard in shards:
        start, end = np.searchsorted(images, [shard.first, shard.first + shard.length])
        if end > start:
            yield shard, images[start:end] - shard.first


def _records(shard: Shard, wanted: Indices) -> Iterator[Record]:
    left = iter(wanted.tolist())
    place = next(left)
    for record in records(shard.file):
        if record.number == place:
            yield record
            if (place := next(left, -1)) < 0:
                return
    raise DataError(f"{shard.file} has fewer images than {shard.length}; copy the data set again.")


def _is_text(feature: Any) -> bool:
    return isinstance(feature, tensorflow_datasets().features.Text)


def _value(record: Record, key: str) -> int | str:
    """Return the single value of the key. Raises DataError if there is none, several, or a float."""
    values = record.feature(key) or []
    if len(values) != 1 or isinstance(values[0], float):
        raise DataError(f"{record} has no single number or text {key!r}.")
    return values[0].decode("utf-8", "backslashreplace") if isinstance(values[0], bytes) else values[0]


def _classes(feature: Any, values: Sequence[int | str]) -> Classes:
    """Index the labels; TFDS stores -1 for images without a label."""
    if isinstance(feature, tensorflow_datasets().features.ClassLabel) and feature.num_classes:
        return Classes(tuple(feature.names), np.array(values, np.int32), OWN_ORDER)
    return classes_of([str(value) for value in values], None)


def absolute(builder: Any) -> Callable[[str], Iterable[Span]]:
    splits = builder.info.splits
    instruction = tensorflow_datasets().core.ReadInstruction
    return lambda expression: instruction.from_spec(expression).to_absolute(splits)
