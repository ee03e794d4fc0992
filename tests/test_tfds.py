"""Data sets prepared by TFDS: read from their files, without TensorFlow and without network."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from loopback import Answer, Heard, Loopback
from PIL import Image
from writers import LabelledImage
from writers import tfds as writer

from hyperrule.data.listing import DataRequest, Listing
from hyperrule.data.sources.tfds import list_tfds
from hyperrule.errors import DataError

SIZES = {"train": 20, "validation": 5, "test": 7, "extra": 2}


def encoded(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), number % 256, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def builder(
    name: str, features: dict[str, Any], rows: dict[str, list[dict[str, Any]]], **attributes: Any
) -> type[tfds.core.GeneratorBasedBuilder]:
    """The code of a data set that TFDS does not know by name."""

    def info(self: Any) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=attributes.get("supervised_keys"),
            disable_shuffling=True,
        )

    def examples(self: Any, split: str) -> Iterator[Any]:
        yield from enumerate(rows[split])

    members = {
        "__module__": __name__,
        "VERSION": tfds.core.Version(attributes.get("version", "1.0.0")),
        "BUILDER_CONFIGS": attributes.get("configs", []),
        "_info": info,
        "_split_generators": lambda self, manager: {split: self._generate_examples(split) for split in rows},
        "_generate_examples": examples,
    }
    return type(tfds.core.GeneratorBasedBuilder)(
        name, (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True
    )


def prepare(cls: type[tfds.core.GeneratorBasedBuilder], data_dir: Path, shards: int = 1, **options: Any) -> Path:
    made = cls(data_dir=data_dir, **options.pop("arguments", {}))
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards), **options)
    return Path(made.data_dir)


def listing(data_dir: Path, dataset: str, **options: Any) -> Listing:
    return list_tfds(DataRequest(f"tfds:{dataset}", data_dir=data_dir, **options), Heard(), fetch=False)


def message(data_dir: Path, dataset: str, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        listing(data_dir, dataset, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image i of a split has i as its grey value; JPEG and PNG by turns; labels i modulo 3; three shards a split."""
    rows = {
        split: [
            {"image": encoded(number, ("JPEG", "PNG")[number % 2]), "label": number % 3, "weight": number % 2 * 10}
            for number in range(size)
        ]
        for split, size in SIZES.items()
    }
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["newt", "ant", "yak & co"]),
        "weight": np.int64,
    }
    data_dir = tmp_path_factory.mktemp("tfds")
    for split in rows:
        rows[split] += []
    prepare(
        builder("TinyPets", features, {s: r for s, r in rows.items() if s != "extra"}), data_dir / "three", shards=3
    )
    prepare(builder("TinyPets", features, rows), data_dir / "one")
    return data_dir


def test_shards(pets: Path) -> None:
    found = listing(pets / "three", "tiny_pets")
    assert found.class_names == ("newt", "ant", "yak & co")
    assert found.class_order == "the data set's own"
    assert {split: len(members) for split, members in found.splits.items()} == {
        split: size for split, size in SIZES.items() if split != "extra"
    }
    assert found.origins == {split: f"split {split}" for split in found.splits}
    assert len(found.contents.files) == 9
    for split, members in found.splits.items():
        for number, index in enumerate(members):
            assert found.contents[index] == encoded(number, ("JPEG", "PNG")[number % 2])
            assert found.labels[index] == number % 3
            assert found.ids[index] == f"{split}/{number:05d}"
    assert "9 shards" in found.cost


def test_without_tensorflow(pets: Path) -> None:
    code = f"""
import socket, sys
def refuse(*_, **__): raise SystemExit("network")
socket.getaddrinfo = socket.socket.connect = refuse
from hyperrule.data.listing import DataRequest
from hyperrule.data.sources.tfds import list_tfds
from hyperrule.support.progress import Reporter
from pathlib import Path
found = list_tfds(DataRequest("tfds:tiny_pets", data_dir=Path({str(pets / "three")!r})), Reporter(), fetch=False)
assert len(found.ids) == 32, found
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        ({}, {"train": 20, "validation": 5, "test": 7}),
        ({"train": "train[:90%]"}, {"train": 18, "validation": 5, "test": 7}),
        ({"train": "train[:12]+validation[:2]"}, {"train": 14, "test": 7}),
        ({"train": "train+validation"}, {"train": 25, "test": 7}),
        ({"train": "train[:-5]", "validation": "train[-5:]"}, {"train": 15, "validation": 5, "test": 7}),
        ({"test": "validation"}, {"train": 20, "test": 5}),
        ({"test": "test[:3]"}, {"train": 20, "validation": 5, "test": 3}),
        ({"train": "extra", "test": "train[:50%]"}, {"train": 2, "validation": 5, "test": 10}),
        ({"train": "all"}, {"train": 34}),
    ],
)
def test_splits(pets: Path, splits: dict[Any, str], sizes: dict[str, int]) -> None:
    found = listing(pets / "one", "tiny_pets", splits=splits)
    assert {split: len(members) for split, members in found.splits.items()} == sizes
    assert list(found.origins) == list(found.splits)
    assert len(found.ids) == len(found.labels) == len(found.contents) == sum(sizes.values())
    members = np.concatenate(list(found.splits.values()))
    assert sorted(members) == list(range(len(found.ids)))


def test_members_of_an_expression(pets: Path) -> None:
    """By TFDS' own reading of the expression."""
    expression = "train[35%:40%]+test[-2:]+train[:1]"
    ours = listing(pets / "three", "tiny_pets", splits={"train": expression})
    theirs = tfds.builder_from_directory(pets / "three/tiny_pets/1.0.0").as_dataset(
        expression, decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert sorted(ours.contents[i] for i in ours.splits["train"]) == sorted(
        row["image"] for row in tfds.as_numpy(theirs)
    )


def test_notes_tell_of_splits_that_are_not_used(pets: Path) -> None:
    assert listing(pets / "one", "tiny_pets").notes == ("not used: extra (2)",)
    merged = listing(pets / "three", "tiny_pets", splits={"train": "train+validation"})
    assert merged.notes == ("split validation is in use by train+validation (train)",)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": "train[:98%]", "test": "train[90%:]"}, ["train[:98%]", "train[90%:]", "2 images in common"]),
        ({"validation": "train[50%:]"}, ["10 images in common", "--train-split"]),
        ({"train": "training"}, ["'training'", "train (20)", "test (7)"]),
        ({"train": "train[:"}, ["'train[:'", "train[:80%]"]),
        ({"train": "train[:30]"}, ["'train[:30]'", "20 examples"]),
        ({"train": "train[5:5]"}, ["empty"]),
        ({"train": "train+train[:2]"}, ["twice"]),
    ],
)
def test_bad_splits(pets: Path, splits: dict[Any, str], words: list[str]) -> None:
    said = message(pets / "three", "tiny_pets", splits=splits)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("tiny_pet", ["'tiny_pet'", "Did you mean 'tiny_pets'"]),
        ("oxford_flower102", ["Did you mean 'oxford_flowers102'"]),
        ("tiny_pets:2.0.0", ["version 2.0.0", "1.0.0"]),
        ("tiny_pets/large", ["config large", "1.0.0"]),
        ("imagenet_resized/9x9", ["'9x9'", "8x8", "64x64"]),
        ("cifar10:1.0.0", ["version 1.0.0", "3.0"]),
        ("tiny pets", ["not a TFDS name"]),
        ("cifar10", ["not prepared", "162.17 MiB", "finetune", "tfds build cifar10 --data_dir"]),
        ("imagenet2012", ["not prepared", "you download to", "ILSVRC2012_img_train.tar"]),
    ],
)
def test_bad_names(pets: Path, dataset: str, words: list[str]) -> None:
    said = message(pets / "three", dataset)
    assert all(word in said for word in words), said
    assert sorted(child.name for child in (pets / "three").iterdir()) == ["downloads", "tiny_pets"]


def test_no_data_dir(tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} does not exist" in message(tmp_path / "nowhere", "cifar10")


def test_data_dir_of_the_environment(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(pets / "three"))
    assert len(list_tfds(DataRequest("tfds:tiny_pets:1.*.*"), Heard(), fetch=False).ids) == 32


def test_folder(pets: Path) -> None:
    found = list_tfds(DataRequest(f"tfds:{pets / 'one/tiny_pets/1.0.0'}"), Heard(), fetch=False)
    assert len(found.splits["train"]) == 20


def test_configs_and_versions(tmp_path: Path) -> None:
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
    rows = {"train": [{"image": encoded(number), "label": number % 2} for number in range(4)]}
    configs = [tfds.core.BuilderConfig(name=name, version=tfds.core.Version("1.0.0")) for name in ("small", "large")]
    for config in ("small", "large"):
        prepare(builder("Sized", features, rows, configs=configs), tmp_path, arguments={"config": config})
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        prepare(builder("Plain", features, rows, version=version), tmp_path)
    assert listing(tmp_path, "sized").location == tmp_path / "sized/small/1.0.0"
    assert listing(tmp_path, "sized/large:1.0.0").location == tmp_path / "sized/large/1.0.0"
    assert "large:1.0.0, small:1.0.0" in message(tmp_path, "sized/medium")
    assert listing(tmp_path, "plain").location == tmp_path / "plain/1.10.0"
    assert listing(tmp_path, "plain:1.9.0").location == tmp_path / "plain/1.9.0"
    assert "1.0.0, 1.10.0, 1.9.0" in message(tmp_path, "plain:3.0.0")


def break_shard(folder: Path) -> None:
    next(folder.glob("*-train.tfrecord-00001-*")).unlink()


def break_metadata(folder: Path) -> None:
    (folder / "dataset_info.json").unlink()


def break_records(folder: Path) -> None:
    next(folder.glob("*-train.tfrecord-00001-*")).write_bytes(b"")


def break_features(folder: Path) -> None:
    (folder / "features.json").write_text("{}")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (break_shard, ["1 of 9", "train.tfrecord-00001", "missing"]),
        (break_metadata, ["TFDS can read"]),
        (break_records, ["train.tfrecord-00001", "fewer images"]),
        (break_features, ["TFDS can read"]),
    ],
)
def test_half_there(pets: Path, tmp_path: Path, broken: Callable[[Path], None], words: list[str]) -> None:
    shutil.copytree(pets / "three", tmp_path / "copy")
    broken(tmp_path / "copy/tiny_pets/1.0.0")
    said = message(tmp_path / "copy", "tiny_pets")
    assert all(word in said for word in words), said


def test_array_record(tmp_path: Path) -> None:
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
    rows = {"train": [{"image": encoded(number), "label": number % 2} for number in range(4)]}
    prepare(builder("Arrays", features, rows), tmp_path, file_format="array_record")
    said = message(tmp_path, "arrays")
    assert "array_record" in said
    assert "tfds convert_format" in said


LABELS = {
    "label_color": tfds.features.ClassLabel(names=["red", "blue"]),
    "label_size": tfds.features.ClassLabel(num_classes=2),
    "count": np.int32,
    "share": np.float32,
    "word": tfds.features.Text(),
    "about": {"age": np.int64},
}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("labels")
    rows = [
        {
            "image": encoded(number),
            "label_color": number % 2,
            "label_size": number % 2,
            "count": [10, 9, -1, 9][number],
            "share": 0.5,
            "word": ["été", "B", "a", "a"][number],
            "about": {"age": 7 + number % 2},
            "file_name": f"{number}.png",
        }
        for number in range(4)
    ]
    features = {"image": tfds.features.Image(), "file_name": tfds.features.Text()} | LABELS
    prepare(builder("Many", features, {"train": rows}, supervised_keys=("image", "label_size")), data_dir)
    return data_dir


@pytest.mark.parametrize(
    ("key", "class_names", "found", "order"),
    [
        ("label_color", ("red", "blue"), [0, 1, 0, 1], "own"),
        ("label_size", ("0", "1"), [0, 1, 0, 1], "own"),
        ("count", ("-1", "9", "10"), [2, 1, 0, 1], "numbers"),
        ("word", ("B", "a", "été"), [2, 0, 1, 1], "text"),
        ("about/age", ("7", "8"), [0, 1, 0, 1], "numbers"),
    ],
)
def test_label_keys(labels: Path, key: str, class_names: tuple[str, ...], found: list[int], order: str) -> None:
    listed = listing(labels, "many", label_key=key)
    assert listed.class_names == class_names
    assert listed.labels.tolist() == found
    assert listed.labels.dtype == np.int32
    assert order in listed.class_order
    assert listed.ids == ["train/0.png", "train/1.png", "train/2.png", "train/3.png"]


def test_several_labels(labels: Path) -> None:
    said = message(labels, "many")
    assert "label_size, label_color" in said
    assert "--label-key label_size" in said
    assert "Did you mean 'label_color'" in message(labels, "many", label_key="label_colour")
    assert "'share'" in message(labels, "many", label_key="share")
    assert "'word'" in message(labels, "many", image_key="word")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"image": tfds.features.Image(), "file": tfds.features.Text()}, ["no image-level label", "--label-key file"]),
        (
            {"image": tfds.features.Image(), "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()})},
            ["no image-level label", "objects"],
        ),
        ({"sound": np.float32, "label": tfds.features.ClassLabel(names=["a", "b"])}, ["no image", "sound"]),
        (
            {
                "one": tfds.features.Image(),
                "two": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
            },
            ["several images: one, two", "--image-key one"],
        ),
        (
            {
                "image": tfds.features.Image(shape=(8, 9, 1), dtype=np.float32),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
            },
            ["float32", "uint8"],
        ),
    ],
)
def test_features_that_do_not_fit(tmp_path: Path, features: dict[str, Any], words: list[str]) -> None:
    values = {
        "image": encoded(1),
        "one": encoded(1),
        "two": encoded(2),
        "file": "x",
        "sound": 1.0,
        "label": 0,
        "objects": {"bbox": [tfds.features.BBox(0.0, 0.0, 1.0, 1.0)]},
    }
    if "dtype=float32" in str(features.get("image")):
        values["image"] = np.zeros((8, 9, 1), np.float32)
    prepare(builder("Odd", features, {"train": [{key: values[key] for key in features}]}), tmp_path)
    said = message(tmp_path, "odd")
    assert all(word in said for word in words), said


def test_unlabelled_test_split(tmp_path: Path) -> None:
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
    rows = {
        "test": [{"image": encoded(number), "label": -1} for number in range(3)],
        "train": [{"image": encoded(number), "label": number % 2} for number in range(4)],
    }
    prepare(builder("Contest", features, rows), tmp_path)
    found = listing(tmp_path, "contest")
    assert list(found.splits) == ["train"]
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.contents[3] == encoded(3)
    assert found.ids[0] == "train/00000"
    assert "test has no labels" in " ".join(found.notes)
    assert "3 of 3 images of test" in message(tmp_path, "contest", splits={"test": "test"})


def test_splits_of_other_names(tmp_path: Path) -> None:
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
    rows = [{"image": encoded(number), "label": number % 2} for number in range(4)]
    prepare(builder("Whole", features, {"full": rows}), tmp_path)
    prepare(builder("Halves", features, {"left": rows, "right": rows}), tmp_path)
    assert listing(tmp_path, "whole").origins == {"train": "split full"}
    assert "left (4), right (4)" in message(tmp_path, "halves")
    assert list(listing(tmp_path, "halves", splits={"train": "left", "test": "right"}).splits) == ["train", "test"]


def test_empty_splits(tmp_path: Path) -> None:
    """TFDS writes none, but its metadata may say so."""
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
    rows = {"train": [{"image": encoded(number), "label": number % 2} for number in range(4)]}
    folder = prepare(builder("Trained", features, rows), tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"].append(info["splits"][0] | {"name": "test", "shardLengths": [], "numBytes": "0"})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert list(listing(tmp_path, "trained").splits) == ["train"]
    assert "empty" in message(tmp_path, "trained", splits={"test": "test"})


def test_known_data_sets(tmp_path: Path) -> None:
    features = {
        "image": tfds.features.Image(),
        "label_azimuth": tfds.features.ClassLabel(num_classes=2),
        "label_category": tfds.features.ClassLabel(num_classes=2),
    }
    rows = [{"image": encoded(number), "label_azimuth": 0, "label_category": number % 2} for number in range(2)]
    prepare(builder("Smallnorb", features, {"train": rows}), tmp_path)
    assert set(listing(tmp_path, "smallnorb:1.0.0", label_key="label_azimuth").destroys_label) == {"flip"}
    assert listing(tmp_path, "smallnorb:1.0.0", label_key="label_category").destroys_label == {}


class LoopbackPictures(tfds.core.GeneratorBasedBuilder):
    """Known to TFDS by its name; downloads its only image from `url`."""

    VERSION = tfds.core.Version("1.0.0")
    url = ""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        return {"train": self._generate_examples(dl_manager.download(self.url))}

    def _generate_examples(self, path: Any) -> Iterator[Any]:
        for label in range(2):
            yield label, {"image": path.read_bytes(), "label": label}


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    request = DataRequest("tfds:loopback_pictures", data_dir=tmp_path)
    with Loopback() as server:
        monkeypatch.setattr(LoopbackPictures, "url", f"{server.url}/image.png")
        with pytest.raises(DataError, match="not prepared"):
            list_tfds(request, Heard(), fetch=False)
        assert server.asked == []
        server.answers["/image.png"] = Answer(encoded(7))
        heard = Heard()
        found = list_tfds(request, heard)
    assert found.contents[0] == found.contents[1] == encoded(7)
    assert any(str(tmp_path / "loopback_pictures/1.0.0") in line for line in heard.lines)
    assert capsys.readouterr().out == ""
    again = list_tfds(request, Heard(), fetch=False)
    assert again.ids == found.ids


@pytest.mark.parametrize("network", [True, False])
def test_download_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool) -> None:
    """An answer 404, and nobody who answers."""
    with Loopback() as server:
        monkeypatch.setattr(LoopbackPictures, "url", f"{server.url}/nothing.png")
        if not network:
            server.__exit__()
        with pytest.raises(DataError, match=r"could not be prepared.*tfds build loopback_pictures --data_dir") as error:
            list_tfds(DataRequest("tfds:loopback_pictures", data_dir=tmp_path), Heard())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "loopback_pictures/1.0.0").exists()


def test_writer(tmp_path: Path) -> None:
    images = [
        LabelledImage(split, name, f"{number}.png", encoded(number))
        for split in ("train", "test")
        for number, name in enumerate(["b/c", "<a>", "b/c"])
    ]
    options = writer.write(tmp_path, images)
    found = listing(Path(options["data_dir"]), options["dataset"].removeprefix("tfds:"))
    assert [found.contents[i] for i in range(6)] == [image.encoded for image in images]
    assert [found.class_names[label] for label in found.labels] == [image.class_name for image in images]
