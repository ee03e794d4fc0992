"""Write an image folder {train,validation,test}/CLASS/NAME."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from writers import LabelledImage


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    for image in images:
        file = folder / image.split / image.class_name / image.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image.encoded)
    return {"dataset": str(folder)}
