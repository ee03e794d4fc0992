"""What every image file is: bytes, format, size, what is wrong with it; decoded, also what it looks like.

Pillow reads, so that `plan` needs no TensorFlow; where TensorFlow's decoders disagree, that is a problem here.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from scipy.fft import dctn

from hyperrule.data.contents import Contents, Pixels
from hyperrule.progress import Reporter

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
ORIENTATION = 0x0112  # EXIF tag
TURNED = 5  # orientations from 5 to 8 swap height and width
CHUNK = 256  # images a task
ENOUGH_FOR_PROCESSES = {False: 20_000, True: 2_000}  # images, by `decode`; starting processes takes a second
HASHED_SIDE, LOW_FREQUENCIES, THUMBNAIL = 32, 8, 8  # pixels, coefficients, pixels

FACTS = np.dtype(
    [
        ("sha256", np.uint8, 32),
        ("bytes", np.int64),
        ("height", np.int32),  # pixels, as it stands upright by its EXIF orientation; 0 where it cannot be read
        ("width", np.int32),
        ("format", "U4"),
        ("mode", "U6"),  # Pillow's, ";16" appended where the file has 16 bits a channel
        ("alpha", np.bool_),
        ("orientation", np.uint8),  # EXIF, 1 to 8
        ("frames", np.int32),
        ("hash", np.uint64),  # perceptual: the signs of the 8 x 8 lowest frequencies; 0 where it was not decoded
        ("thumbnail", np.uint8, (THUMBNAIL, THUMBNAIL, 3)),
    ]
)
Facts = npt.NDArray[np.void]
Problems = dict[int, str]


def inspect(contents: Contents, decode: bool, reporter: Reporter) -> tuple[Facts, Problems]:
    """FACTS of all n images [n], and what is wrong with those that cannot be used, by number.

    Without `decode`, bytes are hashed and headers are parsed; with it, every pixel is decoded, on all cores.
    """
    facts = np.zeros(len(contents), FACTS)
    problems: Problems = {}
    with reporter.stage("Decoding" if decode else "Reading", len(contents)) as report, _results(contents, decode) as of:
        for start, (part, wrong) in zip(range(0, len(contents), CHUNK), of, strict=True):
            facts[start : start + len(part)] = part
            problems |= {start + index: reason for index, reason in wrong.items()}
            report(start + len(part), "images")
    return facts, problems


@contextmanager
def _results(contents: Contents, decode: bool) -> Iterator[Iterator[tuple[Facts, Problems]]]:
    """The facts of every chunk in order, in processes where it pays: small images leave no time to threads."""
    chunks = (contents.take(np.arange(s, min(s + CHUNK, len(contents)))) for s in range(0, len(contents), CHUNK))
    if len(contents) < ENOUGH_FOR_PROCESSES[decode]:
        yield (_inspect_chunk(chunk, decode) for chunk in chunks)
        return
    from joblib import Parallel, delayed  # takes longer to import than small data sets to inspect

    tasks = (delayed(_inspect_chunk)(_in_memory(chunk), decode) for chunk in chunks)
    results = Parallel(n_jobs=-1, return_as="generator")(tasks)
    try:
        yield results
    finally:
        results.close()


def _in_memory(chunk: Contents) -> Contents:
    """Pixels are pickled with the whole array that they lie in, unless they are cut out first."""
    return Pixels.of(np.asarray(chunk.images[chunk.rows])) if isinstance(chunk, Pixels) else chunk


def _inspect_chunk(contents: Contents, decode: bool) -> tuple[Facts, Problems]:
    facts, problems = np.zeros(len(contents), FACTS), {}
    small = np.zeros((len(contents), HASHED_SIDE, HASHED_SIDE))
    Image.MAX_IMAGE_PIXELS = None  # what is too large is the business of whoever has the memory
    for index in range(len(contents)):
        try:
            encoded = contents[index]
            if (problem := _inspect_one(encoded, facts[index], small[index] if decode else None)) is not None:
                problems[index] = problem
        except OSError as error:
            problems[index] = reason(b"", error)
        except UnicodeEncodeError:
            problems[index] = "its name is not UTF-8"
    if decode:
        facts["hash"] = _perceptual_hash(small)
    return facts, problems


def _inspect_one(encoded: bytes, facts: np.void, small: npt.NDArray[np.float64] | None) -> str | None:
    """Fill the facts of one image, and what its perceptual hash is made of; the problem with it, if any."""
    facts["sha256"] = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8)
    facts["bytes"] = len(encoded)
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            _note_header(image, facts)
            if (problem := _misread(image)) is not None:
                return problem
            if small is not None:
                image.load()
                _note_looks(image, facts, small)
            facts["height"], facts["width"] = _upright(image.height, image.width, int(facts["orientation"]))
            return None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return reason(encoded, error)


def reason(encoded: bytes, error: Exception) -> str:
    """Why Pillow does not read an image, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if not encoded:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return " ".join(str(error).split())


def _note_header(image: ImageFile.ImageFile, facts: np.void) -> None:
    sixteen = any(";16" in str(tile[3]) for tile in image.tile) and ";16" not in image.mode
    facts["format"] = image.format
    facts["mode"] = image.mode + (";16" if sixteen else "")
    facts["alpha"] = image.has_transparency_data
    facts["frames"] = getattr(image, "n_frames", 1)
    orientation = image.getexif().get(ORIENTATION, 1)
    facts["orientation"] = orientation if orientation in range(1, 9) else 1


def _misread(image: ImageFile.ImageFile) -> str | None:
    """What Pillow reads and TensorFlow does not."""
    if image.format == "BMP" and image.mode in ("1", "P"):
        return "BMP with a palette, which TensorFlow does not read; save it as PNG"
    if image.format == "WEBP" and getattr(image, "is_animated", False):
        return "animated WebP, which TensorFlow does not read; save it as PNG"
    return None


def _note_looks(image: Image.Image, facts: np.void, small: npt.NDArray[np.float64]) -> None:
    upright = ImageOps.exif_transpose(image)
    grey = upright.convert("L") if upright.mode[0] != "I" else upright.point(lambda level: level / 256).convert("L")
    small[:] = grey.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    facts["thumbnail"] = upright.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=2.0)


def _perceptual_hash(small: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """uint64 [n] of grey images [n, 32, 32]: which of the 64 lowest frequencies of the cosine transform are above
    their median (pHash, Zauner 2010)."""
    low = dctn(small, axes=(1, 2))[:, :LOW_FREQUENCIES, :LOW_FREQUENCIES].reshape(len(small), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _upright(height: int, width: int, orientation: int) -> tuple[int, int]:
    return (width, height) if orientation >= TURNED else (height, width)
