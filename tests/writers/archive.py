"""Write an image folder in a zip file."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from writers import LabelledImage, image_folder


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    image_folder.write(folder / "images", images)
    return {"dataset": shutil.make_archive(str(folder / "images"), "zip", folder / "images")}
