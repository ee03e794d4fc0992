"""Tar shards, whole and hostile, written with tarfile."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from writers import LabelledImage
from writers.tar_shards import shard, write

from hyperrule.data.listing import AS_NUMBERS, DataRequest, Listing
from hyperrule.data.sources.webdataset import list_tar_shards
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter

CAT, DOG = ("cat.jpg", b"a cat"), ("dog.jpg", b"a dog")
PAIR = [CAT, ("cat.cls", b"0"), DOG, ("dog.cls", b"1")]


def listed_from(dataset: Path | str, **keys: object) -> Listing:
    return list_tar_shards(DataRequest(str(dataset), **keys), Reporter(quiet=True))  # type: ignore[arg-type]


def members(*names: str) -> list[tuple[str, bytes]]:
    """Samples of those keys, each an image (its key) with a label."""
    return [(f"{name}.{kind}", name.encode()) for name in names for kind in ("png", "txt")]


def test_every_image_is_read_from_its_place_in_its_shard(tmp_path: Path) -> None:
    images = [
        LabelledImage(split, name, f"{i:02}.png", f"{split} {name} {i}".encode() * (i * 300 + 1))
        for split in ("train", "test")
        for name in ("the <b>cat</b>", "dog/x.y 🐕")
        for i in range(5)
    ]
    listing = listed_from(write(tmp_path, images)["dataset"])
    assert listing.class_names == ("dog/x.y 🐕", "the <b>cat</b>")
    assert list(listing.splits) == ["train", "test"]
    assert listing.origins == {"train": "2 shards named train", "test": "2 shards named test"}
    for split, numbers in listing.splits.items():
        received = [(split, listing.class_names[listing.labels[i]], listing.contents[i]) for i in numbers]
        assert received == [(image.split, image.class_name, image.encoded) for image in images if image.split == split]
    assert len(set(listing.ids)) == len(images)
    assert listing.cost.startswith("headers of 4 shards, ")
    assert listing.cost.endswith(" were read to index 20 images")


@pytest.mark.parametrize(
    ("labels", "class_names", "order"),
    [
        ([("cls", b"10"), ("cls", b"9\n")], ("9", "10"), AS_NUMBERS),
        ([("cls", b"b"), ("cls", b"a\n")], ("a", "b"), "names as text"),
        ([("txt", b"10"), ("txt", b"9")], ("9", "10"), AS_NUMBERS),
        ([("txt", b"10"), ("txt", b"?")], ("10", "?"), "names as text"),
        ([("json", b'{"label": 3, "class_name": "b"}'), ("json", b'{"label": -1}')], ("-1", "3"), AS_NUMBERS),
        ([("json", b'{"class": "b"}'), ("json", b'{"class": "a"}')], ("a", "b"), "names as text"),
        ([("cls", b"10"), ("json", b'{"label": 9}')], ("9", "10"), AS_NUMBERS),
    ],
)
def test_labels(labels: Sequence[tuple[str, bytes]], class_names: Sequence[str], order: str, tmp_path: Path) -> None:
    (kind, label), (other_kind, other_label) = labels
    content = [("a.jpg", b"x"), (f"a.{kind}", label), ("b.jpg", b"x"), (f"b.{other_kind}", other_label)]
    listing = listed_from(shard(tmp_path / "x.tar", content))
    assert (listing.class_names, listing.class_order) == (class_names, order)
    assert set(listing.labels) == {0, 1}


def test_lines_of_a_file_name_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("background\ndog\ncat\nunused\n")
    file = shard(tmp_path / "x.tar", [CAT, ("cat.cls", b"2"), DOG, ("dog.cls", b"1")])
    listing = listed_from(file)
    assert listing.class_names == ("dog", "cat")
    assert listing.labels.tolist() == [1, 0]
    assert listing.class_order == "that of classes.txt"
    for lines, wrong in (("a\nb\n", "no name for label 2"), ("x\na\na\n", "repeats 'a'")):
        (tmp_path / "classes.txt").write_text(lines)
        with pytest.raises(DataError, match=wrong):
            listed_from(file)


def test_keys_choose_among_images_and_labels(tmp_path: Path) -> None:
    file = shard(
        tmp_path / "x.tar",
        [
            (f"{i}.{kind}", content)
            for i in range(2)
            for kind, content in (
                ("jpg", b"photo"),
                ("seg.png", b"mask"),
                ("cls", b"%d" % i),
                ("json", json.dumps({"label": 7, "breed": f"breed {i}"}).encode()),
            )
        ],
    )
    listing = listed_from(file, image_key="seg.png", label_key="cls")
    assert (listing.contents[1], listing.class_names) == (b"mask", ("0", "1"))
    assert listed_from(file, image_key="png;jpg", label_key="breed").class_names == ("breed 0", "breed 1")
    with pytest.raises(DataError, match=r"has 2 images: \.jpg, \.seg\.png.*--image-key jpg"):
        listed_from(file, label_key="cls")
    with pytest.raises(DataError, match=r"has 2 labels: \.cls, \.json.*--label-key cls"):
        listed_from(file, image_key="jpg")
    with pytest.raises(DataError, match=r"no label \(color\)"):
        listed_from(file, image_key="jpg", label_key="color")


def test_what_is_in_no_sample_is_passed_over(tmp_path: Path) -> None:
    around = [("README", b"x"), ("./a/._cat.jpg", b"x"), ("__index__", b"x")]
    within = [("cat.npy", b"x"), ("cat.json", b'{"width": 3}')]
    last = [("./dog.PNG", b"x"), ("./dog.cls", b"1")]
    listing = listed_from(shard(tmp_path / "x.tar", [*around, *PAIR[:2], *within, *last]))
    assert list(listing.ids) == ["cat.jpg", "dog.PNG"]


def test_ids_are_printable_and_unique_across_splits(tmp_path: Path) -> None:
    odd = tarfile.TarInfo(b"\xff.jpg".decode("utf-8", "surrogateescape"))
    for split in ("train", "test"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            tar.addfile(odd)
            label = tarfile.TarInfo(odd.name.replace("jpg", "cls"))
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1"))
    assert list(listed_from(tmp_path).ids) == ["test-0/\\xff.jpg", "train-0/\\xff.jpg"]


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("x-{000..002}.tar", ["a", "b", "c"]),
        ("x-{000,002}.tar", ["a", "c"]),
        ("x-00[01].tar", ["a", "b"]),
        ("x-001.tar", ["b"]),
        ("*", ["a", "b", "c"]),
        ("", ["a", "b", "c"]),
    ],
)
def test_what_may_be_typed(typed: str, keys: list[str], tmp_path: Path) -> None:
    for number, key in enumerate("abc"):
        shard(tmp_path / f"x-{number:03}.tar", members(key))
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".x-003.tar").touch()
    listing = listed_from(tmp_path / typed)
    assert list(listing.ids) == [f"{key}.png" for key in keys]
    assert (listing.splits, listing.location) == ({}, tmp_path)


@pytest.mark.parametrize(
    ("names", "typed", "splits"),
    [
        (("train/0.tar", "val/0.tar", "test/0.tar"), "", {}),
        (("Train-0000.tar", "dev-0000.tar", "testing-0000.tar"), "", {}),
        (("imagenet-train-0.tar", "imagenet-val-0.tar", "imagenet-test-0.tar"), "*.tar", {}),
        (("train2017.tar", "val_1.tar", "test.tar"), "{train2017,val_1,test}.tar", {}),
        (("s/train.tar", "s/val.tar", "s/test.tar"), "*/*.tar", {}),
        (("fold1-0.tar", "fold2-0.tar", "x-y-0.tar"), "", {"train": "fold1", "validation": "fold2", "test": "x-y"}),
        (("a/0.tar", "b c/0.tar", "d/0.tar"), "", {"train": "a", "validation": "b c", "test": "d"}),
    ],
)
def test_splits(names: Sequence[str], typed: str, splits: dict[str, str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shard(tmp_path / name, members(str(number)))
    listing = listed_from(tmp_path / typed, splits=splits)
    found = {split: [listing.contents[i] for i in numbers] for split, numbers in listing.splits.items()}
    assert found == {"train": [b"0"], "validation": [b"1"], "test": [b"2"]}


def test_shards_of_no_split_are_left_out_and_told(tmp_path: Path) -> None:
    for name in ("train-0", "test-0", "extra-0"):
        shard(tmp_path / f"{name}.tar", members(name))
    listing = listed_from(tmp_path)
    assert list(listing.ids) == ["test-0.png", "train-0.png"]
    assert listing.notes == ("1 shard of no split left out: extra-0.tar",)


@pytest.mark.parametrize(
    ("names", "typed", "words"),
    [
        (("x-000", "x-002"), "x-{000..003}.tar", r"missing \(2 of 4\).*x-001.tar.*x-003.tar"),
        (("x-0-of-4", "x-2-of-4"), "", "2 of 4 shards are missing: x-1-of-4.tar, x-3-of-4.tar"),
        (("x-000",), "y-*.tar", r"missing \(1 of 1\): .*y-\*\.tar"),
        ((), "", "no shard in .*such as train-0000.tar. Received: nothing"),
        (("train-0", "training-0"), "", "two names for the train split"),
        (("train-test-0", "val-0"), "", "says test and train.*--train-split train-test"),
    ],
)
def test_shards_that_do_not_fit_together(names: Sequence[str], typed: str, words: str, tmp_path: Path) -> None:
    for name in names:
        shard(tmp_path / f"{name}.tar", members(name))
    with pytest.raises(DataError, match=words):
        listed_from(tmp_path / typed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([*PAIR, ("rat.cls", b"1")], r"sample rat of .*x\.tar has no image .*only \.cls"),
        ([*PAIR, ("rat.jpg", b"1")], r"sample rat of .*x\.tar has no label .*only \.jpg"),
        ([CAT, DOG, ("cat.cls", b"0"), ("dog.cls", b"1")], "sample cat.*must be adjacent"),
        ([CAT, ("cat.cls", b"0"), ("cat.txt", b"cat")], r"2 labels: \.cls, \.txt"),
        ([CAT, ("cat.JPG", b""), ("cat.cls", b"0")], "2 images.*first dot"),
        ([*PAIR, *PAIR[:2]], "sample cat .*twice"),
        ([*PAIR[:3], ("dog.cls", b"dog")], "numbers and names: 0 in sample cat.*'dog' in sample dog"),
        ([CAT, ("cat.cls", b"")], "sample cat.*'', not a name"),
        ([CAT, ("cat.cls", b"\xff")], "sample cat.*utf-8"),
        ([CAT, ("cat.json", b'{"label"')], "sample cat.*json cannot be read"),
        ([CAT, ("cat.json", b'{"label": [1, 2]}')], r"\[1, 2\], not a name or an integer"),
        ([CAT, ("cat.json", b'{"label": true}')], "True, not a name or an integer"),
        ([CAT, ("cat.json", b'{"label": "\\ud800"}')], "sample cat.*surrogates"),
        ([CAT, ("cat.cls", b"9" * 5000)], "5,000 characters is not a class name"),
        ([CAT, ("cat.txt", b"9" * 5000)], "5,000 characters is not a class name"),
        ([CAT, ("cat.txt", b"7"), DOG, ("dog.txt", b"07")], "'07', '7' write one number"),
        ([CAT, ("cat.json", b"[" * 100_000)], "sample cat.*cannot be read"),
        ([CAT, ("cat.txt", b"x" * (1 << 21))], "cat.txt.*too large for a label"),
        ([], "holds no samples"),
        ([("README", b"x")], "holds no samples"),
    ],
)
def test_samples_that_cannot_be_used(content: Sequence[tuple[str, bytes]], words: str, tmp_path: Path) -> None:
    file = shard(tmp_path / "x.tar", content)
    with pytest.raises(DataError, match=words) as error:
        listed_from(file)
    assert "\n" not in str(error.value)


def test_the_same_key_in_two_shards_of_a_split(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"x-{number}.tar", members("cat"))
    with pytest.raises(DataError, match=r"sample cat of .*x-1\.tar occurs twice"):
        listed_from(tmp_path)


@pytest.mark.parametrize("kept", [0, 100, 512, 600, 1024, 1100, 2048, 4096])
def test_a_shard_that_is_cut_off(kept: int, tmp_path: Path) -> None:
    """2048 and 4096 are the ends of samples, where tarfile stops without a word."""
    file = shard(tmp_path / "x.tar", PAIR)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"x\.tar is not a complete tar file"):
        listed_from(file)


def test_shards_that_are_no_plain_tar(tmp_path: Path) -> None:
    file = shard(tmp_path / "x.tar", PAIR)
    whole = file.read_bytes()
    for damaged in (whole + whole, whole[:2048] + b"x" * 512 + whole[2560:], b"not a tar" * 1000):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="not a complete tar file"):
            listed_from(file)
    for mode, unpack in (("gz", "gunzip"), ("bz2", "bunzip2"), ("xz", "unxz")):
        packed = tmp_path / f"y.tar.{mode}"
        with tarfile.open(packed, f"w:{mode}"):  # type: ignore[call-overload]
            pass
        with pytest.raises(DataError, match=f"compressed.*{unpack} "):
            listed_from(packed)


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (tarfile.SYMTYPE, "link or device"),
        (tarfile.LNKTYPE, "link or device"),
        (tarfile.FIFOTYPE, "link or device"),
        (tarfile.GNUTYPE_SPARSE, "sparse file"),
    ],
)
def test_members_that_are_no_plain_files_are_refused(kind: bytes, called: str, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("rat.jpg")
    entry.type, entry.linkname = kind, "cat.jpg"
    with tarfile.open(shard(tmp_path / "x.tar", PAIR), "a") as tar:
        tar.addfile(entry)
    with pytest.raises(DataError, match=rf"rat\.jpg of .* is a {called}, not a plain file"):
        listed_from(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [b"\xff" * 10 + b"\xfc\x00", b"\x80" + b"\x7f" * 11, b"\x80\0\0\0\x40" + bytes(7)])
def test_sizes_that_cannot_be(size: bytes, kind: bytes, tmp_path: Path) -> None:
    """-1024, 2^87 and 2^62 bytes, in base 256."""
    file = shard(tmp_path / "x.tar", PAIR)
    content = bytearray(file.read_bytes())
    content[124:136] = size
    content[156:157] = kind
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()
    file.write_bytes(content)
    with pytest.raises(DataError, match="not a complete tar file"):
        listed_from(file)


def test_a_long_chain_of_extended_headers(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    entry = tarfile.TarInfo("x")
    entry.type = tarfile.XHDTYPE
    file.write_bytes(entry.tobuf(tarfile.USTAR_FORMAT) * 2000)
    with pytest.raises(DataError, match="not a complete tar file"):
        listed_from(file)
