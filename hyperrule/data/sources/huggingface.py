"""Hugging Face data sets: "hf:ORGANISATION/NAME" or "hf:ORGANISATION/NAME/CONFIG", and folders that save_to_disk wrote.

What is on disk, saved or in the cache, is read without network. Images stay in the Arrow files, mapped into memory.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperrule.data.images import EncodedImages, Files, Indices, TableColumn
from hyperrule.data.label_safety import destroys_label
from hyperrule.data.listing import DataRequest, Listing
from hyperrule.data.sources.named_splits import OWN_ORDER, Span, chosen_key, chosen_splits, reason, without_unlabelled
from hyperrule.data.sources.shards import Classes, classes_of
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter

PREFIX = "hf:"
NAME = re.compile(r"(?P<name>[^/:]+(/[^/:]+)?)([/:](?P<config>[^/:]+))?")
SAVED = ("dataset_dict.json", "state.json")  # of save_to_disk


def list_huggingface(request: DataRequest, reporter: Reporter, fetch: bool = True) -> Listing:
    """Images "train/00123" by position in the split, or by their file names where these are unique.

    With `fetch`, what is not on disk is downloaded. Raises DataError for what does not exist or cannot be had, for a
    data set without images or labels of whole images, and for splits that share images.
    """
    datasets = _datasets(reporter)
    data_set = request.dataset
    with os_errors_as(DataError, f"cannot read {data_set}"):
        parts = _opened(datasets, request, reporter, fetch)
    features = next(iter(parts.values())).features
    image_key, label_key = _keys(datasets, features, request, data_set)
    chosen = chosen_splits(
        request, {name: len(part) for name, part in parts.items()}, _absolute(datasets, parts), data_set
    )
    used = list(_used(parts, chosen.images))
    for name, part, _ in used:
        for key in (image_key, label_key):
            if part.features.get(key) != features[key]:
                raise DataError(f"split {name} of {data_set} has no column {key!r} like that of {next(iter(parts))}.")
    rows, images = _rows(used), _column(used, image_key)
    paths = pc.struct_field(images, "path").take(rows).to_pylist()
    classes = _classes(features[label_key], _column(used, label_key).take(rows))
    files = [file["filename"] for _, part, _ in used for file in part.cache_files]
    listing = Listing(
        kind="Hugging Face",
        location=Path(files[0]).resolve().parent if files else None,
        class_names=classes.names,
        ids=_ids(used, paths),
        labels=classes.labels,
        contents=_contents(pc.struct_field(images, "bytes"), paths, rows, data_set),
        splits=chosen.splits,
        origins=chosen.origins,
        class_order=classes.order,
        notes=chosen.notes,
        destroys_label=destroys_label(Path(data_set).name, label_key),
    )
    return without_unlabelled(listing, request, data_set)


def _opened(datasets: Any, request: DataRequest, reporter: Reporter, fetch: bool) -> dict[str, Any]:
    """Every split's datasets.Dataset by its name; one that was saved without a name is called "train"."""
    typed = request.dataset.removeprefix(PREFIX)
    folder = os.path.expanduser(typed)
    if any(Path(folder, file).is_file() for file in SAVED):
        try:
            loaded = datasets.load_from_disk(folder)
        except Exception as error:  # of any kind: the files are as they come
            raise DataError(f"{folder} does not hold a whole data set of save_to_disk: {reason(error)}") from error
    else:
        loaded = _named(datasets, typed, request.data_dir, reporter, fetch)
    parts = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    if not any(map(len, parts.values())):
        raise DataError(f"{request.dataset} holds no images.")
    return parts


def _named(datasets: Any, typed: str, cache: Path | None, reporter: Reporter, fetch: bool) -> Any:
    """From the cache, else from the network."""
    if (name := NAME.fullmatch(typed)) is None:
        raise DataError(
            f"{PREFIX}{typed} is neither a name of Hugging Face nor a folder of save_to_disk. Write "
            f"{PREFIX}ORGANISATION/NAME, or {PREFIX}ORGANISATION/NAME/CONFIG."
        )
    if cache is not None and not cache.is_dir():
        raise DataError(f"data directory {cache} does not exist. Make it, if data sets are to be downloaded there.")

    def load() -> Any:
        return datasets.load_dataset(name["name"], name["config"], cache_dir=None if cache is None else str(cache))

    try:
        with _offline(datasets):
            return load()
    except Exception as error:
        why = f" ({reason(error)})" if isinstance(error, ValueError) else ""
    missing = f"{PREFIX}{typed} is not in {cache or datasets.config.HF_DATASETS_CACHE}{why}"
    save = f"load_dataset({name['name']!r}).save_to_disk('FOLDER') saves it where there is a network; --dataset FOLDER"
    if datasets.config.HF_HUB_OFFLINE:
        raise DataError(f"{missing}, and HF_HUB_OFFLINE forbids to download it. {save}")
    if not fetch:
        raise DataError(f"{missing}. 'hyperrule finetune' will download it there.")
    reporter.say(f"downloading {PREFIX}{typed} to {cache or datasets.config.HF_DATASETS_CACHE}")
    try:
        return load()
    except Exception as error:  # of any kind: network, rights, configs, files of every format
        raise DataError(f"{PREFIX}{typed} could not be downloaded: {reason(error)} {save}") from error


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Within the block only the cache is looked into."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _keys(datasets: Any, features: Mapping[str, Any], request: DataRequest, data_set: str) -> tuple[str, str]:
    """Of the image and the label."""
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    others = [
        key
        for key, feature in features.items()
        if isinstance(feature, datasets.Value) and re.fullmatch(r"u?int\d+|(large_)?string|bool", feature.dtype)
    ]
    return (
        chosen_key(request.image_key, ("image", "img"), images, [], "image", data_set, list(features)),
        chosen_key(request.label_key, ("label", "labels"), classes, others, "label", data_set, list(features)),
    )


def _absolute(datasets: Any, parts: Mapping[str, Any]) -> Callable[[str], Iterable[Span]]:
    sizes = {name: len(part) for name, part in parts.items()}
    return lambda expression: datasets.ReadInstruction.from_spec(expression).to_absolute(sizes)


def _used(parts: Mapping[str, Any], images: Indices) -> Iterator[tuple[str, Any, Indices]]:
    """Splits that have any of those images, with the positions, ascending, that these have in the split."""
    first = 0
    for name, part in parts.items():
        start, end = np.searchsorted(images, [first, first + len(part)])
        if end > start:
            yield name, part, images[start:end] - first
        first += len(part)


def _column(used: list[tuple[str, Any, Indices]], key: str) -> pa.ChunkedArray:
    """That column of the tables of all splits."""
    return pa.chunked_array([chunk for _, part, _ in used for chunk in part.data.column(key).chunks])


def _rows(used: list[tuple[str, Any, Indices]]) -> Indices:
    """Rows of the images in such a column. A data set that was shuffled or filtered has a table of its rows' order."""
    rows, first = [], 0
    for _, part, positions in used:
        order = positions if part._indices is None else part._indices.column(0).to_numpy()[positions].astype(np.int64)
        rows.append(order + first)
        first += part.data.num_rows
    return np.concatenate(rows)


def _ids(used: list[tuple[str, Any, Indices]], paths: list[str | None]) -> list[str]:
    """By file name, if these are relative and differ; else by position."""
    splits = [name for name, _, positions in used for _ in range(len(positions))]
    named = [f"{split}/{path}" for split, path in zip(splits, paths, strict=True) if path and _is_plain(path)]
    if len(set(named)) == len(paths):
        return named
    return [
        f"{name}/{position:0{max(5, len(str(len(part) - 1)))}d}"
        for name, part, positions in used
        for position in positions
    ]


def _is_plain(path: str) -> bool:
    return path.isprintable() and "://" not in path and not os.path.isabs(path)


def _contents(encoded: pa.ChunkedArray, paths: list[str | None], rows: Indices, data_set: str) -> EncodedImages:
    """Images in the table, or in files that it has the paths of."""
    embedded = pc.is_valid(encoded).take(rows).to_numpy()
    if embedded.all():
        return TableColumn(encoded, rows)
    names = [path for path in paths if path and "://" not in path]
    if embedded.any() or len(names) < len(paths):
        raise DataError(
            f"{int((~embedded).sum()):,} of {len(rows):,} images of {data_set} are not in its table, and can only be "
            "read from files if all of them are. Put them in: datasets.Image(decode=False) and save_to_disk."
        )
    return Files.of(Path.cwd(), names)


def _classes(feature: Any, column: pa.ChunkedArray) -> Classes:
    """Images without a label have -1, as in data sets of contests."""
    if hasattr(feature, "names"):
        return Classes(tuple(feature.names), pc.fill_null(column, -1).to_numpy().astype(np.int32), OWN_ORDER)
    known = column.is_valid().to_numpy()
    classes = classes_of(column.cast(pa.string()).drop_null().to_pylist(), None)
    labels = np.full(len(column), -1, np.int32)
    labels[known] = classes.labels
    return Classes(classes.names, labels, classes.order)


def _datasets(reporter: Reporter) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"'{PREFIX}' needs the package datasets: pip install 'hyperrule[hf]' ({error})") from error
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not reporter.console.is_terminal or reporter.console.quiet:
        datasets.disable_progress_bars()
    return datasets
