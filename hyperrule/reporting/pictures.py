"""pictures.parquet: small pictures of a run's data and mistakes, kept because the data may be gone one day.

id, label, why (sample or mistake), jpeg; in the table's metadata "sizes": the sizes of all images, as JSON.
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
from hyperrule.data.source import Source
from hyperrule.errors import RunFolderError
from hyperrule.pages.thumbnails import data_uri, thumbnail
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import atomic_write

CLASSES, SAMPLES = 24, 4  # classes with samples, training images of each
MISTAKES = 24


@dataclass(frozen=True)
class Pictures:
    """data: URIs of the samples by class, and of mistakes by id; the images of the data set by size."""

    samples: dict[str, list[str]] = field(default_factory=dict)
    mistakes: dict[str, str] = field(default_factory=dict)
    sizes: tuple[SizeBin, ...] = ()


def keep_pictures(
    run: RunFolder,
    source: Source,
    testing: Examples,
    probabilities: npt.NDArray[np.float32],
) -> None:
    """Write samples of the training images, and of the test images, with probabilities [N, classes], the most
    confident mistakes. Raises RunError if the file cannot be written."""
    class_names = source.listing.class_names
    rows = [*_samples(source), *_mistakes(testing, probabilities, class_names)]
    columns = zip(*rows, strict=True) if rows else [()] * 4
    kinds = {"id": pa.string(), "label": pa.string(), "why": pa.string(), "jpeg": pa.binary()}
    table = pa.table({name: pa.array(column, kinds[name]) for name, column in zip(kinds, columns, strict=True)})
    sizes = [size.model_dump() for size in size_histogram(source.facts)]
    with atomic_write(run.pictures_file) as partial:
        pq.write_table(table.replace_schema_metadata({"sizes": json.dumps(sizes)}), partial, compression="none")


def read_pictures(run: RunFolder) -> Pictures:
    """None of them where the file is missing. Raises RunFolderError if it is damaged."""
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
            f"{run.pictures_file} is damaged: {' '.join(str(error).split())[:200]}. "
            "Delete it for a report without pictures."
        ) from None


Row = tuple[str, str, str, bytes]


def _samples(source: Source) -> Iterator[Row]:
    listing, training = source.listing, source.splits["train"]
    for label, name in enumerate(listing.class_names[:CLASSES]):
        members = training[listing.labels[training] == label]
        for place in np.unique(np.linspace(0, len(members) - 1, SAMPLES).round().astype(np.int64)):
            if (jpeg := thumbnail(listing.contents, members[place])) is not None:
                yield listing.ids[members[place]], name, "sample", jpeg


def _mistakes(testing: Examples, probabilities: npt.NDArray[np.float32], class_names: tuple[str, ...]) -> Iterator[Row]:
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != testing.labels)
    scores = probabilities[wrong].max(axis=1, initial=0)
    for number in wrong[np.argsort(-scores, kind="stable")][:MISTAKES]:
        if (jpeg := thumbnail(testing.contents, number)) is not None:
            yield testing.ids[number], class_names[testing.labels[number]], "mistake", jpeg
