"""Write a CSV of paths, labels and splits, with the images beside it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from writers import LabelledImage


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    table = folder / "images.csv"
    (folder / "files").mkdir(parents=True)
    with table.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label", "split"])
        for number, image in enumerate(images):
            path = f"files/{number:04d}-{image.name}"
            (folder / path).write_bytes(image.encoded)
            rows.writerow([path, image.class_name, image.split])
    return {"dataset": str(table)}
