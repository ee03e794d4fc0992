"""Write the folder of DatasetDict.save_to_disk, with encoded images in the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from writers import LabelledImage


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    import datasets

    class_names = sorted({image.class_name for image in images})
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=class_names))
    parts = {}
    for split in dict.fromkeys(image.split for image in images):
        members = [image for image in images if image.split == split]
        columns = {
            "image": [{"bytes": image.encoded, "path": image.name} for image in members],
            "label": [image.class_name for image in members],
        }
        parts[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    return {"dataset": str(folder / "saved")}
