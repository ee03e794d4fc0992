"""Predictions by example, as a Parquet table."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hyperrule.data import Examples
from hyperrule.support.files import whole_file


def write_predictions(
    file: Path, examples: Examples, probabilities: npt.NDArray[np.float32], class_names: tuple[str, ...]
) -> None:
    """One row an example: id, label, predicted, score, probabilities (in the order of the classes)."""
    names = np.array(class_names, dtype=object)
    best = probabilities.argmax(axis=1)
    table = pa.table(
        {
            "id": pa.array(examples.ids, pa.string()),
            "label": pa.array(names[examples.labels], pa.string()),
            "predicted": pa.array(names[best], pa.string()),
            "score": pa.array(probabilities.max(axis=1), pa.float32()),
            "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
        },
        metadata={"class_names": "\n".join(class_names)},
    )
    with whole_file(file) as partial:
        pq.write_table(table, partial)
