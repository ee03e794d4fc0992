"""Inspection of single image files, good and bad."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from hyperrule.data.images import Files, TableColumn
from hyperrule.data.inspection import CHUNK, Facts, Problems, inspect, on_all_cores, opened
from hyperrule.support.progress import Reporter

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8))
SCENE = NOISE.resize((6, 4)).resize((60, 40), Image.Resampling.BICUBIC)
GLASS = NOISE.copy()
GLASS.putalpha(90)
SIXTEEN = Image.fromarray(RNG.integers(0, 1 << 16, (40, 60), dtype=np.uint16))


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def scene(seed: int) -> Image.Image:
    """Detail of every size, as photos have it."""
    rng, pixels = np.random.default_rng(seed), np.zeros((200, 300, 3))
    for side in (4, 8, 16, 32):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += np.asarray(noise.resize((300, 200), Image.Resampling.BICUBIC)) / side
    return Image.fromarray((pixels * 255 / pixels.max()).astype(np.uint8))


def inspected(*images: bytes, decode: bool = True) -> tuple[Facts, Problems]:
    return inspect(TableColumn.of(images), decode, Reporter(quiet=True))


def sixteen_bit_colour() -> bytes:
    """A PNG that Pillow reads and does not write."""
    rows = b"".join(b"\0" + RNG.integers(0, 256, 6 * 3, dtype=np.uint8).tobytes() for _ in range(2))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    written = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(SCENE, "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (encoded(Image.new("RGB", (1, 1)), "PNG"), ("PNG", "RGB", 1, 1, 1, False)),
        (encoded(Image.new("RGB", (20_000, 4)), "PNG"), ("PNG", "RGB", 4, 20_000, 1, False)),
        (encoded(NOISE, "JPEG"), ("JPEG", "RGB", 40, 60, 1, False)),
        (encoded(NOISE.convert("CMYK"), "JPEG"), ("JPEG", "CMYK", 40, 60, 1, False)),
        (encoded(NOISE.convert("L"), "JPEG"), ("JPEG", "L", 40, 60, 1, False)),
        (encoded(SIXTEEN, "PNG"), ("PNG", "I;16", 40, 60, 1, False)),
        (sixteen_bit_colour(), ("PNG", "RGB;16", 2, 3, 1, False)),
        (encoded(NOISE.convert("1"), "PNG"), ("PNG", "1", 40, 60, 1, False)),
        (encoded(NOISE.convert("P"), "PNG"), ("PNG", "P", 40, 60, 1, False)),
        (encoded(NOISE.convert("P"), "PNG", transparency=0), ("PNG", "P", 40, 60, 1, True)),
        (encoded(NOISE.convert("LA"), "PNG"), ("PNG", "LA", 40, 60, 1, True)),
        (encoded(GLASS, "WEBP", lossless=True), ("WEBP", "RGBA", 40, 60, 1, True)),
        (encoded(NOISE, "GIF", save_all=True, append_images=[SCENE]), ("GIF", "P", 40, 60, 2, False)),
        (encoded(NOISE, "PNG", save_all=True, append_images=[SCENE]), ("PNG", "RGB", 40, 60, 2, False)),
        (encoded(NOISE, "MPO", save_all=True, append_images=[SCENE]), ("JPEG", "RGB", 40, 60, 1, False)),
        (encoded(NOISE, "BMP"), ("BMP", "RGB", 40, 60, 1, False)),
        (turned(6), ("JPEG", "RGB", 60, 40, 1, False)),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("decode", [True, False])
def test_every_kind_of_image(image: bytes, expected: tuple[object, ...], decode: bool) -> None:
    facts, problems = inspected(image, decode=decode)
    assert not problems
    assert facts[["format", "mode", "height", "width", "frames", "alpha"]][0].item() == expected


def test_a_hundred_megapixels_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts, problems = inspected(encoded(Image.new("L", (10_000, 10_000), 7), "PNG", compress_level=1))
    assert not problems
    assert (facts["height"][0], facts["width"][0]) == (10_000, 10_000)


def test_warnings_of_pillow_are_silenced_while_images_are_read_and_no_longer() -> None:
    """In this process alone, where others may read images too."""

    def heard() -> bool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit("damaged EXIF", UserWarning, "Image.py", 1, module="PIL.Image")
        return len(caught) > 0

    image = encoded(Image.new("L", (8, 8)), "PNG")
    one, other = opened(image), opened(image)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = list(warnings.filters)
        assert heard()
        one.__enter__()
        other.__enter__()
        assert not heard()
        one.__exit__(None, None, None)
        assert not heard()
        other.__exit__(None, None, None)
        assert heard()
        assert warnings.filters == before
    code = "import warnings, hyperrule.data.inspection; assert 'PIL' not in str(warnings.filters), warnings.filters"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_looks_are_upright(orientation: int) -> None:
    """An image that is stored turned, with the EXIF tag that turns it back, looks like the one that is upright."""
    stored = SCENE
    if orientation > 1:
        back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, inverse to the tag's
        stored = SCENE.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    facts, _ = inspected(encoded(stored, "PNG", exif=exif), encoded(SCENE, "PNG"))
    assert facts["orientation"].tolist() == [orientation, 1]
    assert (facts["height"][0], facts["width"][0]) == (facts["height"][1], facts["width"][1])
    assert np.abs(facts["luma"][0].astype(int) - facts["luma"][1]).max() <= 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 not found</html>", "but text"),
        (bytes(4096), "but zeros only"),
        (bytes(range(128, 256)) * 9, "not JPEG, PNG, GIF, BMP or WEBP"),
        (encoded(NOISE, "TIFF"), "but TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "but HEIC"),
        (encoded(NOISE, "JPEG")[:-400], "truncated"),
        (encoded(NOISE, "PNG")[:-4000], "truncated"),
        (encoded(NOISE.convert("P"), "BMP"), "palette"),
        (encoded(NOISE, "WEBP", save_all=True, append_images=[SCENE]), "animated WebP"),
    ],
    ids=[
        "empty",
        "text",
        "zeros",
        "noise",
        "TIFF",
        "HEIC",
        "JPEG cut off",
        "PNG cut off",
        "BMP palette",
        "animated WebP",
    ],
)
def test_what_is_wrong(content: bytes, reason: str) -> None:
    facts, problems = inspected(encoded(NOISE, "PNG"), content)
    assert list(problems) == [1]
    assert reason in problems[1]
    assert facts["height"].tolist() == [40, 0]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_looks_are_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    content = encoded(clear.convert(mode), "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert (inspected(content)[0]["luma"] == 255).all()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    _, problems = inspect(Files.of(tmp_path, ["folder.jpg", "gone.jpg"]), True, Reporter(quiet=True))
    assert problems == {0: "is a directory", 1: "no such file or directory"}


def worker(_: object, __: int) -> tuple[int, int]:
    time.sleep(0.01)  # or the first would have done it all before the second is there
    return os.getpid(), threading.get_ident()


@pytest.mark.parametrize("quota", [1, 2])
def test_no_more_at_once_than_the_quota_of_a_container_leaves(quota: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperrule.support.limits.allowed_cores", lambda: 8)
    monkeypatch.setattr("hyperrule.support.limits.core_limit", lambda: quota)
    with on_all_cores(worker, Files.of(Path(), []), range(40)) as found:
        assert len(set(found)) <= quota


def test_many_images_are_as_each_alone() -> None:
    """More than one task, so on all cores; in the order of the contents."""
    images = [encoded(Image.new("RGB", (index % 50 + 1, 3), (index % 256, 0, 0)), "PNG") for index in range(CHUNK + 40)]
    images[CHUNK + 7] = b""
    together, problems = inspected(*images)
    assert problems == {CHUNK + 7: "empty file"}
    for index in (0, 1, CHUNK - 1, CHUNK, CHUNK + 39):
        assert together[index] == inspected(images[index])[0][0]


def test_looks_forgive_another_encoding_and_not_another_image() -> None:
    one, other = scene(1), scene(2)
    facts, _ = inspected(
        encoded(one, "PNG"), encoded(one.resize((150, 100)), "JPEG", quality=70), encoded(other, "PNG")
    )
    apart = [int(np.bitwise_count(facts["hash"][0] ^ hashed)) for hashed in facts["hash"]]
    assert apart[1] <= 8 < apart[2]


def test_slips_of_the_decoder_are_problems_of_the_image() -> None:
    """A GIF that ends within a block makes Pillow raise an IndexError or struct.error, by where it ends."""
    gif = encoded(NOISE.convert("P"), "GIF", save_all=True, append_images=[NOISE.rotate(90).convert("P")])
    cut = [gif[:end] for end in range(6, len(gif), 7)]
    _, problems = inspected(*cut)
    assert "damaged or cut off" in problems.values()


def test_a_header_that_claims_billions_of_pixels_is_refused_before_they_are_decoded() -> None:
    small = io.BytesIO()
    Image.new("RGB", (4, 4)).save(small, "BMP")
    claims = bytearray(small.getvalue())
    claims[18:26] = (2**15 + 2**14).to_bytes(4, "little") * 2
    _, problems = inspect(TableColumn.of([bytes(claims)]), True, Reporter(quiet=True))
    assert problems == {0: "more than 1,073,741,824 pixels"}
