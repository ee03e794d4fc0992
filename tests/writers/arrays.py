"""Write an .npz of uint8 images [N, height, width, 3] and class names, by split.

Images are decoded and resized to the size of the first, because arrays hold neither encoded bytes nor mixed sizes.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from writers import LabelledImage


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    file = folder / "images.npz"
    folder.mkdir(parents=True, exist_ok=True)
    decoded = [Image.open(io.BytesIO(image.encoded)).convert("RGB") for image in images]
    arrays: dict[str, np.ndarray] = {}
    for split in dict.fromkeys(image.split for image in images):
        members = [number for number, image in enumerate(images) if image.split == split]
        arrays[f"x_{split}"] = np.stack([decoded[i].resize(decoded[0].size) for i in members])
        arrays[f"y_{split}"] = np.array([images[i].class_name for i in members])
    np.savez(file, **arrays)
    return {"dataset": str(file)}
