"""What every image file is: bytes, format, size, what is wrong with it; decoded, also what it looks like.

Pillow reads, so that `plan` needs no TensorFlow; where TensorFlow's decoders disagree, that is a problem here.

Work on images on all cores, in order.
"""

import hashlib
import io
import re
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict

from hyperrule.data.images import EncodedImages
from hyperrule.data.perceptual_hash import FINGERPRINT, SIDE, fingerprints, small_image
from hyperrule.errors import RunError
from hyperrule.support.limits import usable_cores
from hyperrule.support.progress import Reporter

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
ORIENTATION = 0x0112  # EXIF tag
TURNED = 5  # orientations from 5 to 8 swap height and width
CHUNK = 128  # images a task
MOST_PIXELS = 2**30  # a damaged header can claim as many as it likes
SLIPS = (ArithmeticError, LookupError, TypeError, struct.error)  # of Pillow's, such as for GIFs that are cut off
BOMB = Image.DecompressionBombError
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, MemoryError, BOMB, *SLIPS)  # what it raises for bad images
OF_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # an entry of warnings.filters

HEADER = np.dtype(
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
    ]
)
FACTS = np.dtype(HEADER.descr + FINGERPRINT.descr)
Facts = npt.NDArray[np.void]
Problems = dict[int, str]


def inspect(contents: EncodedImages, decode: bool, reporter: Reporter) -> tuple[Facts, Problems]:
    """Facts of all n images [n], and what is wrong with those that cannot be used, by number.

    With `decode`, every pixel is decoded: FACTS. Without it, bytes are hashed and headers parsed: HEADER. Both use all
    cores.
    """
    facts = np.zeros(len(contents), FACTS if decode else HEADER)
    problems: Problems = {}
    starts = range(0, len(contents), CHUNK)
    work: Callable[[EncodedImages, int], tuple[Facts, Problems]] = partial(_inspect_chunk, decode=decode)
    name = "Decoding" if decode else "Reading"
    with on_all_cores(work, contents, starts) as results, reporter.stage(name, len(contents)) as report:
        for start, (part, wrong) in zip(starts, results, strict=True):
            facts[start : start + len(part)] = part
            problems |= wrong
            report(start + len(part), "images")
    return facts, problems


def _inspect_chunk(contents: EncodedImages, start: int, decode: bool) -> tuple[Facts, Problems]:
    numbers = range(start, min(start + CHUNK, len(contents)))
    facts, problems = np.zeros(len(numbers), FACTS if decode else HEADER), {}
    small = np.zeros((len(numbers), SIDE, SIDE, 3), np.uint8)
    for place, number in enumerate(numbers):
        try:
            problem = _inspect_one(contents[number], facts[place], small[place] if decode else None)
            if problem is not None:
                problems[number] = problem
        except OSError as error:
            problems[number] = (error.strerror or str(error)).lower()
        except UnicodeEncodeError:
            problems[number] = "its name is not UTF-8"
    if decode:
        facts[list(FINGERPRINT.names or ())] = fingerprints(small)
    return facts, problems


def _inspect_one(encoded: bytes, facts: np.void, small: npt.NDArray[np.uint8] | None) -> str | None:
    """Fill the facts of one image, and the small image that its looks are made of; the problem with it, if any."""
    facts["sha256"] = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8)
    facts["bytes"] = len(encoded)
    try:
        with opened(encoded) as image:
            _note_header(image, facts)
            if (problem := _misread(image)) is not None:
                return problem
            if small is not None:
                image.load()
                small[:] = small_image(image, int(facts["orientation"]))
            facts["height"], facts["width"] = _upright(image.height, image.width, int(facts["orientation"]))
            return None
    except UNREADABLE as error:
        return reason(encoded, error)


@contextmanager
def opened(encoded: bytes) -> Iterator[ImageFile.ImageFile]:
    """Its header, parsed; pixels come later, within the block. Raises UNREADABLE, as what is done with it then."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow refuses twice as many
    with _pillow_unheard(), Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        yield image


@contextmanager
def _pillow_unheard() -> Iterator[None]:
    """Within the block, no warnings of EXIF data that are damaged, by the line of Pillow's source.

    Threads may overlap, unlike with `warnings.catch_warnings`: each adds an entry of its own, and takes one away.
    """
    filters = warnings.filters
    filters.insert(0, OF_PILLOW)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        filters.remove(OF_PILLOW)  # type: ignore[attr-defined]


def reason(encoded: bytes, error: Exception) -> str:
    """Why Pillow does not read an image, in a few words."""
    if not encoded:
        return "empty file"
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(error, BOMB):
        return f"more than {MOST_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        return f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}{_rather(encoded)}"
    return "damaged or cut off" if isinstance(error, SLIPS) else " ".join(str(error).split())


def _rather(encoded: bytes) -> str:
    """What a file is that is none of FORMATS, where that can be seen."""
    if encoded[4:8] == b"ftyp" and encoded[8:12] in (b"heic", b"heix", b"mif1", b"avif"):
        return ", but AVIF" if encoded[8:12] == b"avif" else ", but HEIC"
    try:
        with _pillow_unheard(), Image.open(io.BytesIO(encoded)) as image:
            return f", but {image.format}"
    except UNREADABLE:
        pass
    if not encoded.strip(b"\0"):
        return ", but zeros only"
    return ", but text" if encoded[:512].isascii() and b"\0" not in encoded[:512] else ""


def _note_header(image: ImageFile.ImageFile, facts: np.void) -> None:
    sixteen = any(";16" in str(tile[3]) for tile in image.tile) and ";16" not in image.mode
    several = image.format == "MPO"  # a JPEG, followed by others: of the other eye, of more depth
    facts["format"] = "JPEG" if several else image.format or ""
    facts["mode"] = image.mode + (";16" if sixteen else "")
    facts["alpha"] = image.has_transparency_data
    facts["frames"] = 1 if several else getattr(image, "n_frames", 1)
    facts["orientation"] = _orientation(image)


def _orientation(image: ImageFile.ImageFile) -> int:
    """As the decoder of training and export sees it: by EXIF alone. Pillow's own getexif asks XMP, too."""
    if (encoded := image.info.get("exif")) is None:
        return 1
    exif = Image.Exif()
    exif.load(encoded)
    orientation = exif.get(ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _misread(image: ImageFile.ImageFile) -> str | None:
    """What Pillow reads and TensorFlow does not."""
    if image.format == "BMP" and image.mode in ("1", "P"):
        return "BMP with a palette, which TensorFlow does not read; save it as PNG"
    if image.format == "WEBP" and getattr(image, "is_animated", False):
        return "animated WebP, which TensorFlow does not read; save it as PNG"
    return None


def _upright(height: int, width: int, orientation: int) -> tuple[int, int]:
    return (width, height) if orientation >= TURNED else (height, width)


Result = TypeVar("Result")

_worker = threading.local()


@contextmanager
def on_all_cores(
    work: Callable[[EncodedImages, int], Result], contents: EncodedImages, tasks: Sequence[int]
) -> Iterator[Iterator[Result]]:
    """Yields `work(contents, task)` for every task, in their order. Raises RunError if a process is killed.

    Small images leave no time to threads, for most of their time is Python's; and processes that start anew take
    longer to import than small data sets to decode, and would get contents in copies. So processes are forks, where
    that is safe: on Linux, before TensorFlow has been imported. Elsewhere threads do the work.
    """
    if len(tasks) <= 1:
        yield (work(contents, task) for task in tasks)
        return
    executor = _executor(work, contents)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks beside numpy's idle threads
            results = executor.map(_run, tasks)
        yield results
    except BrokenProcessPool:
        raise RunError("a process that decodes images was killed: is the memory exhausted?") from None
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(work: Callable[[EncodedImages, int], Any], contents: EncodedImages) -> Executor:
    cores = usable_cores()
    if sys.platform == "linux" and "tensorflow" not in sys.modules:
        # Forks inherit what is given, uncopied.
        return ProcessPoolExecutor(cores, get_context("fork"), initializer=_remember, initargs=(work, contents))
    return ThreadPoolExecutor(cores, initializer=_remember, initargs=(work, contents))


def _remember(work: Callable[[EncodedImages, int], Any], contents: EncodedImages) -> None:
    _worker.work, _worker.contents = work, contents


def _run(task: int) -> Any:
    return _worker.work(_worker.contents, task)


EDGES = (0, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)  # pixels of a side


class SizeBin(BaseModel):
    """Images whose side, the square root of their area, is from `low` to below `high` pixels."""

    model_config = ConfigDict(frozen=True)

    low: int
    high: int | None
    images: int


def size_histogram(facts: Facts) -> tuple[SizeBin, ...]:
    """From the smallest to the largest size among the images that can be read."""
    readable = facts[facts["height"] > 0]
    side = np.sqrt(readable["height"].astype(np.int64) * readable["width"])
    counts = np.histogram(side, [*EDGES, np.inf])[0]
    filled = np.flatnonzero(counts)
    bins = zip(EDGES, (*EDGES[1:], None), counts.tolist(), strict=True)
    return tuple(SizeBin(low=low, high=high, images=images) for low, high, images in bins)[
        filled.min(initial=len(EDGES)) : filled.max(initial=-1) + 1
    ]
