"""TFRecord shards, whole and hostile, written with TensorFlow."""

import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from writers import LabelledImage
from writers.tfrecords import shard, write

from hyperrule.data.listing import AS_NUMBERS, DataRequest, Listing
from hyperrule.data.sources.tfexample import records
from hyperrule.data.sources.tfrecords import list_tfrecords
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter

HEADER_BYTES, FOOTER_BYTES = 12, 4


def listed_from(dataset: Path | str, **keys: Any) -> Listing:
    return list_tfrecords(DataRequest(str(dataset), **keys), Reporter(quiet=True))


def labelled(*labels: int | bytes, key: str = "label", **others: Any) -> list[dict[str, Any]]:
    return [{"image": b"image %d" % i, key: label, **others} for i, label in enumerate(labels)]


def test_every_image_is_read_from_its_place_in_its_shard(tmp_path: Path) -> None:
    images = [
        LabelledImage(split, name, f"{i:02}.png", f"{split} {name} {i}".encode() * (i * 300 + 1))
        for split in ("train", "validation")
        for name in ("the <b>cat</b>", "dog/x.y 🐕")
        for i in range(5)
    ]
    listing = listed_from(write(tmp_path, images)["dataset"])
    assert listing.class_names == ("dog/x.y 🐕", "the <b>cat</b>")
    assert list(listing.splits) == ["train", "validation"]
    for split, numbers in listing.splits.items():
        received = [(split, listing.class_names[listing.labels[i]], listing.contents[i]) for i in numbers]
        assert received == [(image.split, image.class_name, image.encoded) for image in images if image.split == split]
    assert listing.ids[5] == "train.tfrecord-00001-of-00002/000000"
    assert len(set(listing.ids)) == len(images)
    assert listing.cost.startswith("4 shards, ")
    assert listing.cost.endswith(" were read to index 20 images")


def test_records_are_those_that_tensorflow_wrote(tmp_path: Path) -> None:
    features = {"bytes": [b"", b"\xff"], "integers": [-(2**63), 2**63 - 1], "floats": [0.5, -2.0], "image": b"abc"}
    file = shard(tmp_path / "x.tfrecord", [features, {"image": b""}, {"image": b"y" * 100_000}])
    first, second, third = records(file)
    assert first.keys() == sorted(features)
    assert {key: first.feature(key) for key in features} == {**features, "image": [b"abc"]}
    assert first.feature("none") is None
    for record, image in ((first, b"abc"), (second, b""), (third, b"y" * 100_000)):
        offset, length = record.place("image")
        assert file.read_bytes()[offset : offset + length] == image
    with pytest.raises(DataError, match=r"'bytes' of record 0 of .*x\.tfrecord is not one value.*\\xff"):
        first.place("bytes")
    unset = tf.train.Example(features=tf.train.Features(feature={"empty": tf.train.Feature()}))
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(unset.SerializeToString())
        writer.write(b"")
    assert [(record.keys(), record.feature("empty")) for record in records(file)] == [(["empty"], []), ([], None)]


def test_tensorflow_is_not_imported(tmp_path: Path) -> None:
    shard(tmp_path / "x.tfrecord", labelled(0, 1))
    code = (
        "import sys; from hyperrule.data.listing import DataRequest; from hyperrule.support.progress import Reporter\n"
        "from hyperrule.data.sources.tfrecords import list_tfrecords\n"
        f"listing = list_tfrecords(DataRequest({str(tmp_path)!r}), Reporter())\n"
        "assert len(listing.ids) == 2 and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("examples", "class_names", "order"),
    [
        (labelled(10, 9), ("9", "10"), AS_NUMBERS),
        (labelled(b"10", b"9"), ("9", "10"), AS_NUMBERS),
        (labelled(b"b", b"a"), ("a", "b"), "names as text"),
        (labelled(2, 1, 2, key="image/class/label"), ("1", "2"), AS_NUMBERS),
        ([*labelled(2, key="image/class/label", **{"image/class/text": b"a"}),
          *labelled(1, key="image/class/label", **{"image/class/text": b"b"})],
         ("b", "a"), "that of image/class/label"),
        ([{**example, "image/encoded": b"x"} for example in labelled(1, 2)], ("1", "2"), AS_NUMBERS),
    ],
)  # fmt: skip
def test_labels(examples: Sequence[Mapping[str, Any]], class_names: Sequence[str], order: str, tmp_path: Path) -> None:
    listing = listed_from(shard(tmp_path / "x.tfrec", examples))
    assert (listing.class_names, listing.class_order, listing.notes) == (class_names, order, ())
    assert set(listing.labels) == {0, 1}


@pytest.mark.parametrize("texts", [(b"a", b"a", b"a"), (b"a", b"b", b"c"), (b"a", b"", b"c")])
def test_texts_that_do_not_name_numbers_one_to_one(texts: Sequence[bytes], tmp_path: Path) -> None:
    examples = [
        {"image": b"x", "image/class/label": label, "image/class/text": text}
        for label, text in zip((1, 1, 2), texts, strict=True)
    ]
    listing = listed_from(shard(tmp_path / "x.tfrecord", examples))
    assert listing.class_names == ("1", "2")
    assert "does not name every" in listing.notes[0]


@pytest.mark.parametrize("name", ["classes.txt", "label.labels.txt"])
def test_lines_of_a_file_name_the_numbers(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("background\ndog\ncat\n")
    listing = listed_from(shard(tmp_path / "x.tfrecord", labelled(2, 1)))
    assert (listing.class_names, listing.labels.tolist()) == (("dog", "cat"), [1, 0])


def test_keys_that_were_asked_for(tmp_path: Path) -> None:
    file = shard(tmp_path / "x.tfrecord", [{"image": b"a", "left": b"b", "label": 0, "breed": b"pug"}] * 2)
    listing = listed_from(file, image_key="left", label_key="breed")
    assert (listing.contents[1], listing.class_names) == (b"b", ("pug",))
    with pytest.raises(DataError, match=r"no key 'right'\. It has: breed, image, label, left\. Choose one: --image"):
        listed_from(file, image_key="right")
    with pytest.raises(DataError, match=r"no key 'kind'.*--label-key"):
        listed_from(file, label_key="kind")


def test_file_names_are_ids_where_they_are_unique(tmp_path: Path) -> None:
    def ids(*names: bytes) -> list[str]:
        examples = [{"image": b"x", "label": i, "image/filename": name} for i, name in enumerate(names)]
        return list(listed_from(shard(tmp_path / "x.tfrecord", examples)).ids)

    assert ids(b"a.jpg", b"\xff.jpg") == ["a.jpg", "\\xff.jpg"]
    assert ids(b"a.jpg", b"a.jpg") == ids(b"a.jpg", b"") == ["x/000000", "x/000001"]


@pytest.mark.parametrize(
    ("names", "typed", "words"),
    [
        (("x.tfrecord-00000-of-00003",), "", "2 of 3 shards are missing: x.tfrecord-00001-of-00003, x.tf"),
        (("x-00000-of-00002.tfrecord",), "x-*", "1 of 2 shards are missing: x-00001-of-00002.tfrecord"),
        (("a/x-00000-of-00002.tfrec", "b/x-00001-of-00002.tfrec"), "", "1 of 2 shards are missing: a/x-00001-of"),
        (("x-0.tfrecord",), "x-{0..2}.tfrecord", r"missing \(2 of 3\)"),
    ],
)
def test_shards_that_are_missing(names: Sequence[str], typed: str, words: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shard(tmp_path / name, labelled(0, 1))
    with pytest.raises(DataError, match=words):
        listed_from(tmp_path / typed)


def test_some_shards_of_many_may_be_named(tmp_path: Path) -> None:
    for number in (0, 2):
        shard(tmp_path / f"x.tfrecord-{number:05}-of-00003", labelled(0, 1))
    assert len(listed_from(tmp_path / "x.tfrecord-{00000,00002}-of-00003").ids) == 4
    assert len(listed_from(tmp_path / "x.tfrecord-00002-of-00003").ids) == 2


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([], "holds no records"),
        ([{"label": 1, "size": 2}], "record 0 of .* none of the usual keys of images .* It has: label, size"),
        ([{"image": b"x", "size": 2}], "none of the usual keys of labels .* It has: image, size"),
        ([{}], "It has: no keys"),
        ([*labelled(0, 1), {"label": 0}], "'image' of record 2 of .* it has: label"),
        ([*labelled(0, 1), {"image": [b"x", b"y"], "label": 0}], "'image' of record 2 .*not one value"),
        ([{"image": [1, 2, 3], "label": 0}], r"not one value of bytes; received \[1, 2, 3\]"),
        ([*labelled(0, 1), {"image": b"x"}], "record 2 of .* has no 'label', only image"),
        (labelled(0, [1, 2]), r"record 1 of .* has 'label' \[1, 2\]. A label is one"),
        (labelled(0.5), r"has 'label' \[0.5\]"),
        (labelled(b"\xff"), r"label b'\\xff' is not UTF-8"),
        (labelled(0, b"cat"), "numbers and names: 0 before record 1 of .*, 'cat' in it"),
    ],
)
def test_records_that_cannot_be_used(examples: Sequence[Mapping[str, Any]], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as error:
        listed_from(shard(tmp_path / "x.tfrecord", examples))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kept", "words"),
    [(HEADER_BYTES - 1, "header of record 0"), (HEADER_BYTES + 1, "record 0"), (-1, "record 1"), (-FOOTER_BYTES, "1")],
)
def test_a_shard_that_is_cut_off(kept: int, words: str, tmp_path: Path) -> None:
    file = shard(tmp_path / "x.tfrecord", labelled(0, 1))
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=rf"x\.tfrecord is cut off within .*{words}"):
        listed_from(file)


def test_shards_that_are_damaged(tmp_path: Path) -> None:
    file = shard(tmp_path / "x.tfrecord", labelled(0, 1))
    whole = file.read_bytes()
    second = HEADER_BYTES + struct.unpack("<Q", whole[:8])[0] + FOOTER_BYTES
    for damaged, words in (
        (whole[:second] + b"\1" + whole[second + 1 :], "damaged at record 1"),
        (whole + bytes(32), "damaged at record 2"),
        (b"\xff" * 8 + whole[8:], "not a TFRecord file"),
        (b"a line of text", "not a TFRecord file"),
        (whole[:HEADER_BYTES] + b"\xff" * 20 + whole[HEADER_BYTES + 20 :], "record 0 of .* is not a tf.train.Example"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=words):
            listed_from(file)


@pytest.mark.parametrize(("compression", "words"), [("GZIP", "compressed with GZIP.*gunzip"), ("ZLIB", "compressed")])
def test_compressed_records_are_refused(compression: str, words: str, tmp_path: Path) -> None:
    shard(tmp_path / "x.tfrecord.gz", labelled(0, 1), compression)
    with pytest.raises(DataError, match=words):
        listed_from(tmp_path)


def test_a_record_as_long_as_the_magic_number_of_gzip_is_read(tmp_path: Path) -> None:
    """Its header starts with 1f 8b."""
    bare = len(shard(tmp_path / "x.tfrecord", [{"image": b"x" * 30_000, "label": 0}]).read_bytes()) - 30_000
    image = b"x" * (0x8B1F - (bare - HEADER_BYTES - FOOTER_BYTES))
    file = shard(tmp_path / "x.tfrecord", [{"image": image, "label": 0}])
    assert file.read_bytes()[:2] == b"\x1f\x8b"
    assert listed_from(file).contents[0] == image
