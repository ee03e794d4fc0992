"""Images small enough to be part of a page."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

from hyperrule.data.inspection import UNREADABLE, opened
from hyperrule.data.looks import on_white
from hyperrule.data.source import Source

SIDE = 96  # pixels, at most
QUALITY = 80


def pictures(source: Source, ids: Iterable[str]) -> dict[str, str]:
    """data: URIs of the images with those ids, JPEG on white, upright by EXIF; none for those that cannot be read."""
    wanted = set(ids)
    numbers = {identity: number for number, identity in enumerate(source.listing.ids) if identity in wanted}
    return {identity: picture for identity, number in numbers.items() if (picture := _picture(source, number))}


def _picture(source: Source, number: int) -> str | None:
    try:
        with opened(source.listing.contents[number]) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG decodes to less than it has
            upright = ImageOps.exif_transpose(_eight_bits(image))
    except UNREADABLE:
        return None
    upright.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    on_white(upright).save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode[0] != "I":
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
