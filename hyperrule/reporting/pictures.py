"""Keeps thumbnails of a run's data and mistakes in pictures.parquet, because the data may be gone when they are needed.

Columns: id, label, why ("sample" or "mistake"), jpeg. The table's metadata has "sizes", a histogram of image sizes as
JSON.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hyperrule.data.images import Examples
from hyperrule.data.inspection import SizeBin, size_histogram
from hyperrule.data.selection import evenly_spread
from hyperrule.data.source import Source
from hyperrule.errors import RunFolderError
from hyperrule.pages.thumbnails import data_uri, thumbnail
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import atomic_write
from hyperrule.support.wording import one_line

CLASSES, SAMPLES = 24, 4  # number of classes with samples, samples of each
MISTAKES = 24

Row = tuple[str, str, str, bytes]  # id, label, why, jpeg


@dataclass(frozen=True)
class Pictures:
    """Thumbnails as data: URIs, samples by class and mistakes by id; and the histogram of image sizes."""

    samples: dict[str, list[str]] = field(default_factory=dict)
    mistakes: dict[str, str] = field(default_factory=dict)
    sizes: tuple[SizeBin, ...] = ()


def keep_pictures(
    run: RunFolder,
    source: Source,
    testing: Examples,
    probabilities: npt.NDArray[np.float32],
) -> None:
    """Write samples of the training images, and the most confident mistakes on the test images.

    `probabilities` are float32 [N, classes], one row for each image of `testing`. Raises RunError if the file cannot be
    written.
    """
    class_names = source.listing.class_names
    rows = [*_samples(source), *_mistakes(testing, probabilities, class_names)]
    columns = zip(*rows, strict=True) if rows else [()] * 4
    kinds = {"id": pa.string(), "label": pa.string(), "why": pa.string(), "jpeg": pa.binary()}
    table = pa.table({name: pa.array(column, kinds[name]) for name, column in zip(kinds, columns, strict=True)})
    sizes = [size.model_dump() for size in size_histogram(source.facts)]
    with atomic_write(run.pictures_file) as partial:
        pq.write_table(table.replace_schema_metadata({"sizes": json.dumps(sizes)}), partial, compression="none")


def read_pictures(run: RunFolder) -> Pictures:
    """Read the pictures; there are none if the file is missing. Raises RunFolderError if it is damaged."""
    if not run.pictures_file.is_file():
        return Pictures()
    pictures = Pictures()
    try:
        table = pq.read_table(run.pictures_file)
        for row in table.to_pylist():
            if row["why"] == "sample":
                pictures.samples.setdefault(row["label"], []).append(data_uri(row["jpeg"]))
            else:
                pictures.mistakes[row["id"]] = data_uri(row["jpeg"])
        sizes = json.loads((table.schema.metadata or {}).get(b"sizes", b"[]"))
        return Pictures(pictures.samples, pictures.mistakes, tuple(map(SizeBin.model_validate, sizes)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{run.pictures_file} is damaged: {one_line(error)}. Delete it for a report without pictures."
        ) from None


def _samples(source: Source) -> Iterator[Row]:
    listing, training = source.listing, source.splits["train"]
    for label, name in enumerate(listing.class_names[:CLASSES]):
        members = training[listing.labels[training] == label]
        for place in evenly_spread(len(members), SAMPLES):
            if (jpeg := thumbnail(listing.contents, members[place])) is not None:
                yield listing.ids[members[place]], name, "sample", jpeg


def _mistakes(testing: Examples, probabilities: npt.NDArray[np.float32], class_names: tuple[str, ...]) -> Iterator[Row]:
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != testing.labels)
    scores = probabilities[wrong].max(axis=1, initial=0)
    for number in wrong[np.argsort(-scores, kind="stable")][:MISTAKES]:
        if (jpeg := thumbnail(testing.contents, number)) is not None:
            yield testing.ids[number], class_names[testing.labels[number]], "mistake", jpeg
