"""What an image looks like in 300 bytes: for finding near duplicates, not for showing."""

import numpy as np
import numpy.typing as npt
from PIL import Image

SAMPLED_SIDE, SIDE, CHROMA_SIDE = 128, 16, 4  # pixels
LOW = 8  # frequencies of the cosine transform
FINGERPRINT = np.dtype(
    [
        ("hash", np.uint64),  # perceptual: which of the 8 x 8 lowest frequencies are above their median
        ("luma", np.uint8, (SIDE, SIDE)),
        ("chroma", np.uint8, (CHROMA_SIDE, CHROMA_SIDE, 2)),  # Cb and Cr, 128 where there is no colour
    ]
)
RESIZABLE = frozenset({"L", "RGB", "CMYK", "I", "I;16", "I;16B", "I;16L"})  # modes whose pixels can be averaged
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
).T  # ITU-R BT.601, as JPEG has it
BLOCK_MEANS = np.repeat(np.eye(CHROMA_SIDE, dtype=np.float32), SIDE // CHROMA_SIDE, axis=1) * (CHROMA_SIDE / SIDE)
COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5)).astype(np.float32)


def small_image(image: Image.Image, orientation: int) -> npt.NDArray[np.uint8]:
    """Means of a decoded image over a grid: RGB [16, 16, 3], upright and on white, as training sees it.

    Of a large image, 128 pixels a row and 128 rows at even distances count.
    """
    sampled = min(image.width, SAMPLED_SIDE), min(image.height, SAMPLED_SIDE)
    if sampled != image.size:  # the mean of all pixels of a photo would take a third of the time of decoding it
        image = image.resize(sampled, Image.Resampling.NEAREST)
    if image.has_transparency_data:
        image = on_white(image)
    elif image.mode not in RESIZABLE:
        image = image.convert("RGB")
    if image.width % SIDE == image.height % SIDE == 0:  # the same means, sooner
        small = image.reduce((image.width // SIDE, image.height // SIDE))
    else:
        small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    if orientation in UPRIGHT:
        small = small.transpose(UPRIGHT[orientation])
    if small.mode[0] == "I":  # 16 bits
        grey = (np.asarray(small).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    rgb = small if small.mode == "RGB" else small.convert("RGB")
    return np.frombuffer(rgb.tobytes(), np.uint8).reshape(SIDE, SIDE, 3)


def on_white(image: Image.Image) -> Image.Image:
    """RGB: what shows through is white."""
    opaque = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, opaque).convert("RGB")


def fingerprints(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """FINGERPRINT [n] of small images [n, 16, 16, 3].

    The hash is pHash (Zauner 2010), of 16 x 16 pixels rather than 32 x 32.
    """
    found = np.zeros(len(small), FINGERPRINT)
    y, *cb_cr = np.moveaxis(small @ TO_YCBCR, -1, 0)
    low = (COSINES @ y @ COSINES.T).reshape(len(small), LOW * LOW)
    middle = np.partition(low, (31, 32), axis=1)[:, 31:33].mean(axis=1, keepdims=True)  # their median
    found["hash"] = np.packbits(low > middle, axis=1).view(">u8")[:, 0]
    found["luma"] = np.rint(y)
    for channel, plane in enumerate(cb_cr):
        found["chroma"][..., channel] = np.rint(BLOCK_MEANS @ plane @ BLOCK_MEANS.T + 128).clip(0, 255)
    return found
