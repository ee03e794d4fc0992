"""Makes thumbnails that are small enough to be part of a page."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

from hyperrule.data.images import EncodedImages
from hyperrule.data.inspection import UNREADABLE, opened
from hyperrule.data.perceptual_hash import on_white
from hyperrule.data.source import Source

SIDE = 96  # pixels, at most
TINY = 16  # pixels; smaller images are enlarged without blur, which browsers would add
QUALITY = 80


def thumbnail(contents: EncodedImages, number: int) -> bytes | None:
    """Return image `number` as a small JPEG, upright by EXIF, on white; None if it cannot be read."""
    try:
        with opened(contents[number]) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # decode a JPEG at reduced size
            upright = ImageOps.exif_transpose(_eight_bits(image))
    except UNREADABLE:
        return None
    upright.thumbnail((SIDE, SIDE))
    small = on_white(upright)
    if (side := max(small.size)) <= TINY:
        small = ImageOps.scale(small, SIDE // side, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode[0] != "I":
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))


def pictures(source: Source, ids: Iterable[str]) -> dict[str, str]:
    """Return thumbnails of the images `ids` as data: URIs, by id, without images that cannot be read."""
    wanted, contents = set(ids), source.listing.contents
    numbers = {identity: number for number, identity in enumerate(source.listing.ids) if identity in wanted}
    small = {identity: thumbnail(contents, number) for identity, number in numbers.items()}
    return {identity: data_uri(jpeg) for identity, jpeg in small.items() if jpeg is not None}
