"""What `Source` makes of a listing: splits, warnings, exclusions, and refused requests."""

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperrule.data.open import open_source
from hyperrule.data.selection import write_exclusions
from hyperrule.data.source import Source
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(seed + number))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """{train,test}/{cats,dogs}: six and two images a class, all different."""
    for number, name in enumerate(("train/cats", "train/dogs", "test/cats", "test/dogs")):
        fill(tmp_path / "photos" / name, 6 if name.startswith("train") else 2, 100 * number)
    return tmp_path / "photos"


def opened(photos: Path, exclude: Path | None = None, strict: bool = False) -> Source:
    return open_source(str(photos), exclude=exclude, strict=strict, reporter=Reporter(quiet=True))


def test_clean_data_raises_no_warning(photos: Path) -> None:
    assert opened(photos, strict=True).info.warnings == ()


@pytest.mark.parametrize(
    ("copy", "words", "forbidden"),
    [
        ("test/cats/leak.png", r"leakage, .* trained on: 1 \(test/cats/leak.png\)", True),
        ("train/dogs/too.png", r"label conflicts, .*: 2 \(train/cats/0.png, train/dogs/too.png\)", True),
        ("train/cats/again.png", r"repeated in their class: 1 \(train/cats/again.png\)", False),
    ],
)
def test_equal_images_are_told_and_refused_when_asked(copy: str, words: str, forbidden: bool, photos: Path) -> None:
    shutil.copy(photos / "train/cats/0.png", photos / copy)
    (warning,) = opened(photos).info.warnings
    assert re.search(words, warning)
    if forbidden:
        with pytest.raises(DataError, match=f"{words}. --strict-data allows none.*--write-exclusions"):
            _ = opened(photos, strict=True).info
    else:
        assert opened(photos, strict=True).info.warnings == (warning,)


def test_what_is_excluded_is_not_even_read(photos: Path, tmp_path: Path) -> None:
    (photos / "train/cats/0.png").write_bytes(b"no image")
    write_exclusions(
        tmp_path / "out.csv", [("train/cats/0.png", "not an image"), ("test/dogs/1.png", "blurred, twice")]
    )
    source = opened(photos, tmp_path / "out.csv")
    assert {split: info.per_class for split, info in source.info.splits.items()} == {"train": (5, 6), "test": (2, 1)}
    assert "test/dogs/1.png" not in source.examples("test").ids
    assert any("2 images left out by" in note for note in source.info.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,reason\ntrain/cats/77.png,x\n", "1 images that the data set does not have: 'train/cats/77.png'"),
        ("file\ntrain/cats/0.png\n", "no column 'id'.*Received: file"),
        ("", "no column 'id'"),
        ("id\n\xff", "not CSV"),
    ],
)
def test_exclusions_that_do_not_fit(text: str, words: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words):
        _ = opened(photos, tmp_path / "out.csv").info


def test_exclusions_that_are_not_there(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read --exclude .*: No such file"):
        opened(photos, tmp_path / "gone.csv")


def test_a_class_that_a_split_lacks_and_one_that_is_rare_are_told(photos: Path) -> None:
    shutil.rmtree(photos / "test/dogs")
    for number in range(1, 6):
        (photos / "train/dogs" / f"{number}.png").unlink()
    for number in range(6):
        (photos / "train/cats" / f"more{number}.png").write_bytes(picture(1000 + number))
    missing, rare = opened(photos).info.warnings
    assert missing == "test has no images of 1 class: 'dogs'"
    assert "'cats' has 12 images, 'dogs' has 1: --balance" in rare


def test_classes_file_gives_the_order_of_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("10", "9", "é b")):
        fill(tmp_path / "photos" / name, 3, 10 * number)
    assert opened(tmp_path / "photos").info.class_names == ("10", "9", "é b")
    (tmp_path / "photos/classes.txt").write_text("9\né b\n\n10\n", encoding="utf-8")
    info = opened(tmp_path / "photos").info
    assert (info.class_names, info.class_order) == (("9", "é b", "10"), "that of classes.txt")
    assert info.splits["train"].per_class == (2, 2, 2)


def test_folders_of_numbers_are_ordered_as_text_and_it_is_said(tmp_path: Path) -> None:
    for number in range(11):
        fill(tmp_path / "photos" / str(number), 2, 10 * number)
    info = opened(tmp_path / "photos").info
    assert info.class_names[:4] == ("0", "1", "10", "2")
    assert info.class_order.startswith("names as text (0, 1, 10, 2, ...; classes.txt")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("cats\n", "does not name the folders 'dogs'"),
        ("cats\ndogs\neels\n", "have no folder: 'eels'"),
        ("cats\ncats\ndogs\n", "repeats 'cats'"),
    ],
)
def test_classes_file_that_does_not_fit(lines: str, words: str, photos: Path) -> None:
    (photos / "classes.txt").write_text(lines)
    with pytest.raises(DataError, match=words):
        opened(photos)


def test_folders_may_be_nested_to_any_depth(photos: Path) -> None:
    fill(photos / "train/cats/holiday/2024", 2, 500)
    info = opened(photos).info
    assert info.splits["train"].per_class == (8, 6)
    assert "train/cats/holiday/2024/0.png" in opened(photos).examples("train").ids


def test_splits_may_have_any_name(photos: Path) -> None:
    (photos / "train").rename(photos / "monday")
    with pytest.raises(DataError, match="nothing to train on, only folder test"):
        _ = opened(photos).info
    source = open_source(str(photos), splits={"train": "monday", "test": "test"}, reporter=Reporter(quiet=True))
    assert {split: info.examples for split, info in source.info.splits.items()} == {"train": 12, "test": 4}
    with pytest.raises(DataError, match=r"no split 'tuesday'. It has: monday, test"):
        open_source(str(photos), splits={"train": "tuesday"}, reporter=Reporter(quiet=True))


def test_a_held_out_split_never_shares_an_image_with_training(tmp_path: Path) -> None:
    for number, name in enumerate(("cats", "dogs")):
        fill(tmp_path / "photos" / name, 10, 100 * number)
        for copy in range(10):
            shutil.copy(tmp_path / "photos" / name / f"{copy}.png", tmp_path / "photos" / name / f"copy{copy}.png")
    info = opened(tmp_path / "photos", strict=True).info
    assert info.splits["test"].per_class == (4, 4)
    assert not any("leakage" in warning for warning in info.warnings)


@pytest.mark.parametrize("name", ["two\nlines", " blank", os.fsdecode(b"\xff")])
def test_class_names_that_do_not_fit_into_labels_txt(name: str, photos: Path) -> None:
    (photos / "train/cats").rename(photos / "train" / name)
    with pytest.raises(DataError, match="class names must be one line of UTF-8 text"):
        _ = opened(photos).info


def test_pipes_are_not_waited_for_and_links_to_nowhere_are_told(photos: Path) -> None:
    os.mkfifo(photos / "train/cats/pipe.jpg")
    info = opened(photos).info
    assert "left out: 1 file without the extension of an image" in info.notes
    (photos / "train/cats/link.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=r"1 of .*link\.jpg .no such file"):
        _ = opened(photos).info


def test_one_name_cannot_be_two_splits(photos: Path) -> None:
    with pytest.raises(DataError, match=r"'test' of .* cannot be two splits"):
        open_source(str(photos), splits={"train": "test", "test": "test"})
