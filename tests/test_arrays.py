"""Arrays in .npz and .npy files: every convention, memory-mapped and not copied; every mistake in one line."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hyperrule.data.listing import AS_NUMBERS, AS_TEXT, DataRequest, Listing
from hyperrule.data.sources.arrays import list_arrays
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter

Arrays = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (4, 6, 3))), dtype=np.uint8)


def packed(folder: Path, save: Callable[..., None] = np.savez, **arrays: Any) -> Path:
    save(folder / "images.npz", **arrays)
    return folder / "images.npz"


def listed_from(file: Path, **keys: Any) -> Listing:
    return list_arrays(DataRequest(str(file), **keys), Reporter(quiet=True))


def refused(file: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        listed_from(file, **keys)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def pixels(listing: Listing, number: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(listing.contents[number])))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("X_train", "y_train", "X_validation", "y_validation", "X_test", "y_test"),
    ],
)
def test_splits_by_the_names_of_arrays(tmp_path: Path, keys: tuple[str, ...], save: Callable[..., None]) -> None:
    stored = [images(count, seed=count) for count in (3, 2, 4)]
    labels = [np.array([1, 10, 9]), np.array([9, 1]), np.array([1, 1, 9, 10])]
    # Arrays of .npz lie in the order in which they are given; a listing has train before validation before test.
    arrays = dict(
        zip(
            reversed(keys),
            reversed([array for pair in zip(stored, labels, strict=True) for array in pair]),
            strict=True,
        )
    )
    listing = listed_from(packed(tmp_path, save, **arrays))
    assert (listing.class_names, listing.class_order) == (("1", "9", "10"), AS_NUMBERS)
    assert {split: members.tolist() for split, members in listing.splits.items()} == {
        "train": [0, 1, 2],
        "validation": [3, 4],
        "test": [5, 6, 7, 8],
    }
    assert listing.labels.tolist() == [0, 2, 1, 1, 0, 0, 0, 1, 2]
    assert [listing.ids[i] for i in (0, 3, 8)] == ["train/000000", "validation/000000", "test/000003"]
    assert all((pixels(listing, i) == image).all() for i, image in enumerate(np.concatenate(stored)))
    assert listing.origins["validation"] == f"{keys[2]} and {keys[3]}"


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y"), ("X", "y"), ("data", "target")])
def test_one_pair_is_not_split(tmp_path: Path, keys: tuple[str, str]) -> None:
    listing = listed_from(packed(tmp_path, **{keys[0]: images(2), keys[1]: [[0], [1]], "weights": [1.0]}))
    assert listing.splits == {}
    assert list(listing.ids) == [f"{keys[0]}/000000", f"{keys[0]}/000001"]
    assert listing.notes == ()


def test_other_keys_and_other_splits(tmp_path: Path) -> None:
    file = packed(tmp_path, pics=images(2), kinds=[3, 4], x_a=images(3), y_a=[0, 1, 1], x_test=images(1), y_test=[0])
    assert listed_from(file, image_key="pics", label_key="kinds").class_names == ("3", "4")
    assert list(listed_from(file, splits={"train": "a", "test": "test"}).splits) == ["train", "test"]
    assert listed_from(file).notes == ("x_a and y_a are left out",)
    assert "'b'" in refused(file, splits={"train": "b"})
    assert "Did you mean 'pics'?" in refused(file, image_key="pic", label_key="kinds")
    assert "--label-key" in refused(file, image_key="pics")


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3)])
def test_grey_and_colour(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = np.asfortranarray(images(3, *shape))
    listing = listed_from(packed(tmp_path, x=stored, y=[0, 1, 0]))
    rgb = np.broadcast_to(stored.reshape(3, 4, 6, -1), (3, 4, 6, 3))
    assert all((pixels(listing, i) == rgb[i]).all() for i in range(3))


@pytest.mark.parametrize(
    ("labels", "class_names", "found"),
    [
        (np.array([10, 9, 10], np.uint8), ("9", "10"), [1, 0, 1]),
        (np.array([[10], [9], [10]], ">i8"), ("9", "10"), [1, 0, 1]),
        (np.array([2.0, 1.0, 2.0], np.float32), ("1", "2"), [1, 0, 1]),
        (np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1]]), ("0", "2"), [1, 0, 1]),
        (np.eye(3, dtype=np.float32), ("0", "1", "2"), [0, 1, 2]),
        (np.array([True, False, True]), ("false", "true"), [1, 0, 1]),
        (np.array(["ä <b>", "a/b", "ä <b>"]), ("a/b", "ä <b>"), [1, 0, 1]),
        (np.array(["ä".encode(), b"a", b"a"]), ("a", "ä"), [1, 0, 0]),
        (np.array(["10", "9", "9"]), ("9", "10"), [1, 0, 0]),
    ],
)
def test_labels(tmp_path: Path, labels: np.ndarray, class_names: tuple[str, ...], found: list[int]) -> None:
    listing = listed_from(packed(tmp_path, images=images(3), labels=labels))
    assert listing.class_names == class_names
    assert listing.labels.tolist() == found
    assert listing.labels.dtype == np.int32


def test_integers_stand_for_the_names_that_are_given(tmp_path: Path) -> None:
    arrays: Arrays = {"images": images(2), "labels": [2, 0]}
    listing = listed_from(packed(tmp_path, class_names=["cat", "ant", "bee"], **arrays))
    assert (listing.class_names, listing.labels.tolist()) == (("cat", "ant", "bee"), [2, 0])
    assert listing.class_order == "that of class_names"
    assert "names 2 classes" in refused(packed(tmp_path, class_names=["cat", "ant"], **arrays))
    assert "repeats 'cat'" in refused(packed(tmp_path, class_names=["cat", "ant", "cat"], **arrays))
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    listing = listed_from(packed(tmp_path, **arrays))
    assert (listing.class_names, listing.class_order) == (("x", "y", "z"), "that of classes.txt")
    listing = listed_from(packed(tmp_path, images=images(2), labels=["z", "x"]))
    assert (listing.class_names, listing.labels.tolist()) == (("x", "y", "z"), [2, 0])


@pytest.mark.parametrize("labels", ["photos_labels", "labels", "y"])
def test_npy_with_labels_beside(tmp_path: Path, labels: str) -> None:
    stored = images(3)
    np.save(tmp_path / "photos.npy", stored)
    np.save(tmp_path / f"{labels}.npy", ["b", "a", "b"])
    listing = listed_from(tmp_path / "photos.npy")
    assert (listing.class_names, listing.class_order, listing.splits) == (("a", "b"), AS_TEXT, {})
    assert all((pixels(listing, i) == stored[i]).all() for i in range(3))


def test_npy_of_a_split_brings_the_others_along(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        np.save(tmp_path / f"{split}_images.npy", images(count))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count) % 2)
    listing = listed_from(tmp_path / "train_images.npy")
    assert {split: len(members) for split, members in listing.splits.items()} == {"train": 4, "test": 2}


def test_npy_with_the_labels_that_are_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images(2))
    assert all(word in refused(tmp_path / "x.npy") for word in ("x_labels.npy", "y.npy", "--label-key"))
    np.save(tmp_path / "kinds.npy", [5, 7])
    for asked in ("kinds", "kinds.npy"):
        assert listed_from(tmp_path / "x.npy", label_key=asked).class_names == ("5", "7")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_mapped_and_pickled_as_where_they_lie(tmp_path: Path, save: Callable[..., None]) -> None:
    stored = np.zeros((100, 64, 64, 3), np.uint8)
    file = packed(tmp_path, save, x_train=stored, y_train=np.arange(100) % 2, x_test=stored[:9], y_test=[1] * 9)
    contents = listed_from(file).contents
    chunk = pickle.dumps(contents.take(np.array([0, 99, 100, 108])))
    assert len(chunk) < 5_000
    assert [pickle.loads(chunk)[i] for i in range(4)] == [contents[0]] * 4


def test_compressed_images_are_unpacked_once_and_told(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = packed(tmp_path, np.savez_compressed, images=images(2), labels=[0, 1])
    for _ in range(2):
        list_arrays(DataRequest(str(file)), Reporter())
    assert capsys.readouterr().err.count("Unpacking images.npy") == 1
    assert [path.name for path in cache.rglob("*.npy")] == ["images.npy"]
    assert not list(cache.rglob("*.partial"))


def test_stored_images_are_read_where_they_are(tmp_path: Path, cache: Path) -> None:
    listed_from(packed(tmp_path, images=images(2), labels=[0, 1]))
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": images(2).astype(np.float32) / 255, "y": [0, 1]}, ["float32 [2, 4, 6, 3]", "255 * x"]),
        ({"x": images(2).astype(np.int64), "y": [0, 1]}, ["int64", "uint8", "astype"]),
        ({"x": images(2, 3, 4, 6), "y": [0, 1]}, ["[2, 3, 4, 6]", "transpose(0, 2, 3, 1)"]),
        ({"x": images(2, 4, 6, 4), "y": [0, 1]}, ["[2, 4, 6, 4]", "[..., :3]"]),
        ({"x": images(2, 24), "y": [0, 1]}, ["[2, 24]", "reshape"]),
        ({"x": images(0), "y": np.zeros(0, int)}, ["[0, 4, 6, 3]", "no images"]),
        ({"x": images(2), "y": [0, 1, 1]}, ["2 images", "3 labels"]),
        ({"x": images(3), "y": [0, -1, 1]}, ["1 negative labels", "index 1 (-1)"]),
        ({"x": images(3), "y": [0, 1, np.nan]}, ["not numbers", "index 2"]),
        ({"x": images(2), "y": np.array([0, 2**64 - 1], np.uint64)}, ["too large", "index 1"]),
        ({"x": images(2), "y": [0.5, 1]}, ["fractions", "index 0 (0.5)"]),
        ({"x": images(2), "y": ["a", ""]}, ["empty labels", "index 1"]),
        ({"x": images(2), "y": [[1, 1, 0], [0, 1, 0]]}, ["several", "index 0"]),
        ({"x": images(2), "y": [[1, 2], [0, 3]]}, ["[2, 2]", "one-hot"]),
        ({"x": images(2), "y": np.array(["a", 1], object)}, ["Python objects"]),
        ({"x": images(2), "y": np.array([1j, 2j])}, ["complex128", "integers or text"]),
        ({"x_train": images(2), "y_train": [0, 1], "x_test": images(2)}, ["x_test without matching images or labels"]),
        ({"x_train": images(2), "y_train": [0, 1], "x_test": images(2), "y_test": ["a", "b"]}, ["one split"]),
        ({"pics": images(2), "kinds": [0, 1]}, ["pics, kinds", "x_train", "--image-key"]),
        ({}, ["no arrays"]),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: Arrays, words: list[str]) -> None:
    said = refused(packed(tmp_path, **arrays))
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("left", [0, 100, 500])
def test_an_archive_that_is_cut_short(tmp_path: Path, cache: Path, save: Callable[..., None], left: int) -> None:
    file = packed(tmp_path, save, images=images(9), labels=np.arange(9))
    file.write_bytes(file.read_bytes()[:left])
    assert "cannot read the arrays" in refused(file)
    assert not list(cache.rglob("*.npy*"))


def test_compressed_images_that_are_damaged_leave_nothing(tmp_path: Path, cache: Path) -> None:
    file = packed(tmp_path, np.savez_compressed, labels=np.arange(9), images=images(9))
    content = bytearray(file.read_bytes())
    start = content.index(b"images.npy") + 500
    content[start : start + 50] = b"\0" * 50
    file.write_bytes(content)
    assert "cannot read the arrays" in refused(file)
    assert not list(cache.rglob("*.npy*"))


@pytest.mark.parametrize("left", [0, 50, 200])
def test_npy_that_is_cut_short(tmp_path: Path, left: int) -> None:
    np.save(tmp_path / "x.npy", images(9))
    np.save(tmp_path / "y.npy", np.arange(9))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:left])
    assert "cannot read the arrays" in refused(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["missing.npz", "missing.npy", "folder.npz", "folder.npy"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "folder.npy").mkdir()
    assert f"cannot read {tmp_path / name}" in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,)}", "allocate"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (9,)", "a damaged header"),
    ],
)
def test_npy_with_a_header_that_lies(tmp_path: Path, header: str, words: str) -> None:
    np.save(tmp_path / "x.npy", images(9))
    line = f"{header}\n".encode()
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line)
    assert words in refused(tmp_path / "x.npy")
