"""Predictions as CSV, JSON, JSON lines and Parquet, each written as it comes; no TensorFlow."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from hyperrule.prediction.predictions import Prediction

Write = Callable[["Prediction"], None]

ROW_GROUP = 10_000  # rows of Parquet that are written at once, and held until then
SCORES_HELD = 200_000  # at most: a row can have 21,843


def csv_rows(stream: TextIO, top: int) -> Write:
    """image, label, score, label_2, score_2 ... (`top` of them), abstained (true or false), error.

    Who abstains gives scores and no labels.
    """
    writer = csv.writer(stream)
    numbers = ["", *(f"_{place}" for place in range(2, top + 1))]
    writer.writerow(["image", *(f"{what}{of}" for of in numbers for what in ("label", "score")), "abstained", "error"])

    def write(prediction: "Prediction") -> None:
        cells = [
            cell
            for found in prediction.classes
            for cell in ("" if prediction.abstained else found.class_name, f"{found.score:.6g}")
        ]
        cells += [""] * (2 * top - len(cells))
        writer.writerow([prediction.image, *cells, str(prediction.abstained).lower(), prediction.error or ""])

    return write


def json_lines(stream: TextIO) -> Write:
    """An object a line: image, predictions, and abstained (true) or error where it applies."""
    return lambda prediction: print(json.dumps(as_json(prediction)), file=stream)


@contextmanager
def json_array(stream: TextIO) -> Iterator[Write]:
    """One array of the objects of `json_lines`."""
    held = ""  # until it is known whether another follows: whole lines alone can go with a display of progress

    def write(prediction: "Prediction") -> None:
        nonlocal held
        stream.write(f"{held},\n" if held else "[\n")
        held = indent(json.dumps(as_json(prediction), indent=2), "  ")

    yield write
    stream.write(f"{held}\n]\n")


@contextmanager
def parquet_rows(file: Path, top: int) -> Iterator[Write]:
    """image, label and score (of the likeliest class; no label where it abstained), predictions (`top` structs of
    class, wnid, index, score), abstained, error; what there is not is null."""
    import pyarrow as pa  # here, for most predictions do without
    import pyarrow.parquet as pq

    found = {"class": pa.string(), "wnid": pa.string(), "index": pa.int32(), "score": pa.float32()}
    schema = pa.schema(
        {
            "image": pa.string(),
            "label": pa.string(),
            "score": pa.float32(),
            "predictions": pa.list_(pa.struct(found)),
            "abstained": pa.bool_(),
            "error": pa.string(),
        }
    )
    at_once = max(1, min(ROW_GROUP, SCORES_HELD // top))
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        def write(prediction: "Prediction") -> None:
            rows.append(_as_row(prediction))
            if len(rows) == at_once:
                flush()

        yield write
        if rows:
            flush()


def as_json(prediction: "Prediction") -> dict[str, Any]:
    row: dict[str, Any] = {"image": prediction.image}
    row["predictions"] = [
        {"class": found.class_name}
        | ({"wnid": found.wnid} if found.wnid else {})
        | {"index": found.index, "score": found.score}
        for found in prediction.classes
    ]
    row |= {"abstained": True} if prediction.abstained else {}
    return row if prediction.error is None else {**row, "error": prediction.error}


def _as_row(prediction: "Prediction") -> dict[str, Any]:
    best = prediction.classes[0] if prediction.classes else None
    return {
        "label": None if best is None or prediction.abstained else best.class_name,
        "score": None if best is None else best.score,
        "abstained": prediction.abstained,
        **as_json(prediction),
    }
