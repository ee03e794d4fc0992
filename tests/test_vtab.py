"""VTAB-1k's tasks on fake data with the features of TFDS' own code: labels, splits, pixels, errors."""

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from command_line import run
from loopback import Heard
from PIL import Image
from tensorflow_datasets.core import example_serializer, naming, splits

from hyperrule.api import plan_bench
from hyperrule.benchmark.cells import planned_cells
from hyperrule.benchmark.grid import Grid
from hyperrule.data.images import FileParts
from hyperrule.data.listing import DataRequest, Listing
from hyperrule.data.source import Source
from hyperrule.data.sources import tfds_builder, vtab
from hyperrule.data.sources.kinds import KINDS, kind_of, located
from hyperrule.data.sources.tfds import Rows
from hyperrule.data.sources.tfds_builder import tensorflow_datasets
from hyperrule.data.sources.vtab import TASKS, Group, Task, list_vtab, score
from hyperrule.errors import DataError, RecipeError

# Of the splits that TFDS prepares: those of T's tests and of the TFDS catalogue.
SIZES = {
    "caltech101": {"train": 3059, "test": 6085},
    "cifar100": {"train": 50000, "test": 10000},
    "dtd": {"train": 1880, "validation": 1880, "test": 1880},
    "oxford_flowers102": {"train": 1020, "validation": 1020, "test": 6149},
    "oxford_iiit_pet": {"train": 3680, "test": 3669},
    "sun397": {"train": 76128, "validation": 10875, "test": 21750},
    "svhn_cropped": {"train": 73257, "test": 26032, "extra": 531131},
    "eurosat": {"train": 27000},
    "patch_camelyon": {"train": 262144, "validation": 32768, "test": 32768},
    "resisc45": {"train": 31500},
    "diabetic_retinopathy_detection": {"sample": 10, "train": 35126, "validation": 10906, "test": 42670},
    "clevr": {"train": 70000, "validation": 15000, "test": 15000},
    "dmlab": {"train": 65550, "validation": 22628, "test": 22735},
    "dsprites": {"train": 737280},
    "kitti": {"train": 6347, "validation": 423, "test": 711},
    "smallnorb": {"train": 24300, "test": 24300},
}
# Where val200 begins and ends, and the test set begins and ends, as T's files compute them.
SPLITS = {
    "caltech101": ("train", 2753, "test", 0, 6085),
    "cifar100": ("train", 45000, "test", 0, 10000),
    "dtd": ("validation", 0, "test", 0, 1880),
    "flowers102": ("validation", 0, "test", 0, 6149),
    "pets": ("train", 2944, "test", 0, 3669),
    "sun397": ("validation", 0, "test", 0, 21750),
    "svhn": ("train", 65931, "test", 0, 26032),
    "eurosat": ("train", 16200, "train", 21600, 27000),
    "patch-camelyon": ("validation", 0, "test", 0, 32768),
    "resisc45": ("train", 18900, "train", 25200, 31500),
    "retinopathy": ("validation", 0, "test", 0, 42670),
    "clevr-count": ("train", 63000, "validation", 0, 15000),
    "clevr-distance": ("train", 63000, "validation", 0, 15000),
    "dmlab": ("validation", 0, "test", 0, 22735),
    "dsprites-location": ("train", 589824, "train", 663552, 737280),
    "dsprites-orientation": ("train", 589824, "train", 663552, 737280),
    "kitti-distance": ("validation", 0, "test", 0, 711),
    "snorb-azimuth": ("test", 0, "test", 12150, 24300),
    "snorb-elevation": ("test", 0, "test", 12150, 24300),
}
OFF = {
    "dsprites-orientation": {"flip"},
    "dsprites-location": {"flip", "crop"},
    "snorb-azimuth": {"flip"},
    "clevr-count": {"crop"},
    "clevr-distance": {"crop"},
    "dmlab": {"crop"},
    "kitti-distance": {"crop"},
}  # arXiv 1912.11370, supplement F

# Of the nearest object of image i, and its class.
CLEVR = [(7.5, 0), (8.0, 0), (8.25, 1), (8.5, 1), (9.0, 2), (9.01, 3), (9.5, 3), (10.0, 4), (10.5, 5)]
# Kinds and distances of the objects of image i, and its class; the first five are those of T's kitti_test.py.
KITTI = [
    ([(0, 1.0)], 0),
    ([(0, 10.0)], 1),
    ([(0, 30.0)], 2),
    ([(4, 30.0)], 3),
    ([(0, 30.0), (1, 1.0)], 0),
    ([(3, 2.0), (2, 20.0)], 1),
    ([], 3),
    ([(2, 8.0)], 0),
    ([(5, 1.0), (1, -0.5)], 0),
]
FEW = {"train": 30, "validation": 10, "test": 10}  # images, where VTAB's 800 and 200 are 8 and 2


def pixels(number: int, shape: tuple[int | None, ...], levels: int) -> npt.NDArray[np.uint8]:
    """No two rows or columns alike, so that one that is turned or mirrored is another."""
    height, width, channels = (side or default for side, default in zip(shape, (5, 4, 3), strict=True))
    values = np.add.outer(np.arange(height) ** 2 * 3, np.arange(width) ** 3) // 2 + number
    return np.repeat(values[..., None] % levels, channels, axis=2).astype(np.uint8)


def value(feature: Any, number: int, levels: int, objects: int) -> Any:
    """Something that the feature can hold; a class label is `number` modulo its classes."""
    kinds = tensorflow_datasets().features
    match feature:
        case kinds.Image():
            image, buffer = pixels(number, feature.shape, levels), io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG", compress_level=0)
            return io.BytesIO(buffer.getvalue())
        case kinds.ClassLabel():
            return number % feature.num_classes
        case kinds.Text():
            return f"{number:03d}"
        case kinds.BBoxFeature():
            return kinds.BBox(0.0, 0.0, 1.0, 1.0)
        case kinds.Sequence():
            return [{key: value(each, 0, 2, 0) for key, each in feature.feature.items()} for _ in range(objects)]
        case _:
            return np.zeros(feature.shape, feature.np_dtype)


def row(features: Mapping[str, Any], data_set: str, number: int) -> dict[str, Any]:
    """Image `number` of a split, as a data set that VTAB asks for has it."""
    in_scene = {"clevr": 3 + number % 8, "kitti": len(KITTI[number % len(KITTI)][0])}.get(data_set, 0)
    levels = 2 if data_set == "dsprites" else 256
    made = {key: value(feature, number, levels, in_scene) for key, feature in features.items()}
    for position, each in enumerate(made.get("objects", [])):
        if data_set == "clevr":
            nearest = CLEVR[number % len(CLEVR)][0]
            each["pixel_coords"] = np.array([100, 0, nearest + (in_scene - 1 - position)], np.float32)
        else:
            each["type"], distance = KITTI[number % len(KITTI)][0][position]
            each["location"] = np.array([-3, 1, distance], np.float32)
    return made


def prepare(task: Task, data_dir: Path, sizes: dict[str, int], rows: Callable[[Any, int], Any] | None = None) -> Path:
    """What `tfds build` leaves, by the features of TFDS' own code; without `rows` only what describes the data."""
    tfds = tensorflow_datasets()
    builder = tfds.builder(task.tfds, data_dir=data_dir)
    folder = Path(builder.data_dir)
    folder.mkdir(parents=True)
    infos = []
    for split, size in sizes.items():
        template = naming.ShardedFileTemplate(
            data_dir=folder, dataset_name=builder.name, split=split, filetype_suffix="tfrecord"
        )
        infos.append(splits.SplitInfo(name=split, shard_lengths=[size], num_bytes=0, filename_template=template))
        if rows:
            write(folder / f"{builder.name}-{split}.tfrecord-00000-of-00001", builder.info.features, size, rows)
    builder.info.set_splits(splits.SplitDict(infos))
    builder.info.write_to_directory(folder)
    return folder


def write(file: Path, features: Any, size: int, rows: Callable[[Any, int], Any]) -> None:
    import tensorflow as tf

    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    with tf.io.TFRecordWriter(str(file)) as stream:
        for number in range(size):
            stream.write(serializer.serialize_example(features.encode_example(rows(features, number))))


def listing(data_dir: Path, typed: str, **options: Any) -> Listing:
    return list_vtab(DataRequest(f"vtab:{typed}", data_dir=data_dir, **options), Heard(), fetch=False)


def message(data_dir: Path, typed: str, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        listing(data_dir, typed, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sixteen data sets in their real sizes, without an image."""
    data_dir = tmp_path_factory.mktemp("described")
    for task in {task.tfds: task for task in TASKS.values()}.values():
        prepare(task, data_dir, SIZES[re.split("[/:]", task.tfds)[0]])
    return data_dir


@pytest.fixture
def image_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shards are read: the id of an image is its split and its number in it."""

    def read_rows(builder: Any, images: npt.NDArray[np.int64], *_: Any) -> Rows:
        ids: list[str] = []
        first = 0
        for name, info in builder.info.splits.items():
            ids += [
                f"{name}/{image - first}" for image in images[(images >= first) & (images < first + info.num_examples)]
            ]
            first += info.num_examples
        nothing = np.zeros(len(images), np.int64)
        return Rows(ids, [0] * len(ids), FileParts((), nothing.astype(np.int32), nothing, nothing), "")

    monkeypatch.setattr(vtab, "read_rows", read_rows)


@pytest.mark.usefixtures("image_numbers")
@pytest.mark.parametrize("name", TASKS)
def test_splits(described: Path, name: str) -> None:
    def ids(typed: str) -> dict[Any, list[str]]:
        found = listing(described, typed)
        return {split: [found.ids[i] for i in members] for split, members in found.splits.items()}

    to_report, to_choose = ids(name), ids(f"{name}@choose")
    val_split, val_start, test_split, test_start, test_end = SPLITS[name]
    assert to_choose == {
        "train": [f"train/{number}" for number in range(800)],
        "validation": [f"{val_split}/{number}" for number in range(val_start, val_start + 200)],
    }
    assert list(to_report) == ["train", "test"]
    assert len(to_report["train"]) == 1000
    assert set(to_report["train"]) == {*to_choose["train"], *to_choose["validation"]}
    assert set(to_report["train"]) != {f"train/{number}" for number in range(1000)}
    assert to_report["test"] == [f"{test_split}/{number}" for number in range(test_start, test_end)]
    for some, others in combinations([*to_choose.values(), to_report["test"]], 2):
        assert not set(some) & set(others)


@pytest.mark.usefixtures("image_numbers")
@pytest.mark.parametrize("name", TASKS)
def test_facts(described: Path, name: str) -> None:
    found = listing(described, name)
    assert len(found.class_names) == len(set(found.class_names)) == TASKS[name].classes
    assert set(found.destroys_label) == OFF.get(name, set())
    assert all(found.destroys_label.values())
    assert "train[:800]" in found.origins["train"]
    assert TASKS[name].tfds.split(":")[0] in found.origins["test"]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a task to the data directory where its data set is, in few images."""
    data_dir = tmp_path_factory.mktemp("few")

    @cache
    def prepared(tfds_name: str) -> None:
        task = next(task for task in TASKS.values() if task.tfds == tfds_name)
        data_set = re.split("[/:]", tfds_name)[0]
        there = {split: size for split, size in FEW.items() if split in SIZES[data_set]}
        prepare(task, data_dir, there, lambda features, number: row(features, data_set, number))

    def of(name: str) -> Path:
        prepared(TASKS[name].tfds)
        return data_dir

    return of


@pytest.fixture
def tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vtab, "TRAIN800", 8)
    monkeypatch.setattr(vtab, "VAL200", 2)


def expected(name: str, number: int) -> int:
    """The class of image `number` of any split."""
    if name == "clevr-count":
        return number % 8
    if name == "clevr-distance":
        return CLEVR[number % len(CLEVR)][1]
    if name == "kitti-distance":
        return KITTI[number % len(KITTI)][1]
    if name == "dsprites-location":
        return number // 2 % 16
    if name == "dsprites-orientation":
        return [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8, 8, 8, 9, 9, 10, 10, 10, 11, 11][number]
    return number % TASKS[name].classes


def numbers(found: Listing, split: Any) -> list[int]:
    """Of images in TFDS' split: `Text` features that name images, and positions, both end in it."""
    return [int(found.ids[i].split("/")[1]) for i in found.splits[split]]


@pytest.mark.usefixtures("tenth")
@pytest.mark.parametrize("name", TASKS)
def test_labels_and_pixels(few: Callable[[str], Path], name: str) -> None:
    from hyperrule.data.decode import decode

    data_dir = few(name)
    data_set = re.split("[/:]", TASKS[name].tfds)[0]
    shape = tensorflow_datasets().builder(TASKS[name].tfds, data_dir=data_dir).info.features["image"].shape
    found = listing(data_dir, name)
    assert len(found.splits["train"]) == 10
    for split, members in found.splits.items():
        for number, index in zip(numbers(found, split), members, strict=True):
            assert found.labels[index] == expected(name, number), number
    for index, number in list(zip(found.splits["train"], numbers(found, "train"), strict=True))[-2:]:
        stored = pixels(number, shape, 2 if data_set == "dsprites" else 256)
        seen = decode(found.contents[index]).numpy()
        assert seen.shape == (*stored.shape[:2], 3)
        np.testing.assert_array_equal(
            seen, np.broadcast_to(stored * (255 if data_set == "dsprites" else 1), seen.shape)
        )


@pytest.mark.usefixtures("tenth")
def test_dsprites_are_black_and_white_wherever_they_are_taken(few: Callable[[str], Path]) -> None:
    found = listing(few("dsprites-location"), "dsprites-location@choose")
    taken = found.contents.take(found.splits["validation"])
    assert len(taken) == 2
    assert {color for _, color in Image.open(io.BytesIO(taken[1])).getcolors()} == {(0, 0, 0), (255, 255, 255)}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("pet", ["no task 'pet'", "caltech101, cifar100", "Did you mean 'pets'?"]),
        ("", ["no task ''", "snorb-elevation"]),
        ("pets@test", ["vtab:pets@test", "vtab:pets to report", "vtab:pets@choose to choose"]),
        ("pets@", ["vtab:pets@choose to choose"]),
    ],
)
def test_not_a_task(tmp_path: Path, typed: str, words: list[str]) -> None:
    said = message(tmp_path, typed)
    assert all(word in said for word in words), said


def test_splits_are_fixed(tmp_path: Path) -> None:
    said = message(tmp_path, "dtd", splits={"train": "train[:900]"})
    assert "--train-split does not apply to vtab:dtd" in said
    assert "vtab:dtd@choose" in said


@pytest.mark.parametrize("name", TASKS)
def test_missing_data(tmp_path: Path, name: str) -> None:
    said = message(tmp_path, name)
    assert said.startswith(f"vtab:{name}: tfds:")
    assert f"is not prepared in {tmp_path}" in said
    assert said.endswith(f"tfds build {TASKS[name].tfds.split(':')[0]} --data_dir={tmp_path}")


def test_data_to_download_by_hand(tmp_path: Path) -> None:
    assert f"{tmp_path}/downloads/manual" in message(tmp_path, "retinopathy")


@pytest.mark.parametrize(
    ("name", "sizes", "words"),
    [
        ("dtd", {"train": 500, "validation": 500, "test": 500}, ["train[:800]", "train (500)"]),
        ("dtd", {"train": 900, "validation": 100, "test": 500}, ["validation[0:200]", "validation (100)"]),
        ("dtd", {"train": 900, "test": 500}, ["validation", "train (900), test (500)"]),
        ("dtd", {"train": 900, "validation": 200}, ["test", "train (900), validation (200)"]),
        ("eurosat", {"train": 1200}, ["train[:800]+train[720:920]", "some images twice"]),
    ],
)
def test_data_that_are_not_whole(tmp_path: Path, name: str, sizes: dict[str, int], words: list[str]) -> None:
    prepare(TASKS[name], tmp_path, sizes)
    said = message(tmp_path, name)
    assert said.startswith(f"vtab:{name}: ")
    assert all(word in said for word in words), said


def test_files_that_are_missing(described: Path) -> None:
    assert "files are missing: dtd-train.tfrecord" in message(described, "dtd")


@pytest.mark.usefixtures("tenth")
@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("clevr-count", {"objects": []}, ["0 objects", "3 to 10"]),
        ("clevr-distance", {"objects": []}, ["inf", "no class"]),
        ("dtd", {"label": -1}, ["6 of 10 images of train", "have no label"]),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, name: str, wrong: dict[str, Any], words: list[str]) -> None:
    data_set = TASKS[name].tfds.split(":")[0]

    def rows(features: Any, number: int) -> dict[str, Any]:
        return row(features, data_set, number) | (wrong if number >= 2 or name != "dtd" else {})

    prepare(TASKS[name], tmp_path, {"train": 30, "validation": 10, "test": 10}, rows)
    said = message(tmp_path, name)
    assert all(word in said for word in words), said


def test_features_of_another_data_set(tmp_path: Path) -> None:
    """The folder of CIFAR-100 under the name of another."""
    made = prepare(TASKS["cifar100"], tmp_path / "made", {"train": 2000, "test": 10})
    for name, version, words in (("dtd", "3.0.1", ["100 classes", "47"]), ("smallnorb", "2.0.0", ["'label_azimuth'"])):
        shutil.copytree(made, tmp_path / name / version)
        said = message(tmp_path, {"smallnorb": "snorb-azimuth"}.get(name, name))
        assert all(word in said for word in words), said


def test_a_whole_task(tmp_path: Path) -> None:
    """Through the command line: 1,000 images, none of which TFDS was asked to make."""
    prepare(
        TASKS["svhn"], tmp_path, {"train": 2000, "test": 50}, lambda features, number: row(features, "svhn", number)
    )
    options = ("--data-dir", str(tmp_path), "--json")
    code, out, err = run("plan", "--dataset", "vtab:svhn", *options)
    assert code == 0, err
    splits_of = json.loads(out)["dataset"]["splits"]
    assert {split: info["examples"] for split, info in splits_of.items()} == {"train": 1000, "test": 50}
    assert splits_of["train"]["origin"] == "split train[:800]+train[1800:2000] of tfds:svhn_cropped/3.1.0"
    assert splits_of["train"]["per_class"] == [100] * 10
    code, out, err = run("plan", "--dataset", "vtab:svhn@choose", *options)
    assert code == 0, err
    assert {split: info["examples"] for split, info in json.loads(out)["dataset"]["splits"].items()} == {
        "train": 800,
        "validation": 200,
    }
    code, out, err = run("plan", "--dataset", "vtab:dtd", *options)
    assert (code, out) == (2, "")
    assert "tfds build dtd" in err
    assert "Traceback" not in err


def test_the_benchmark_tells_what_is_to_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(tfds_builder, "_fetch", lambda *_: pytest.fail("a dry run downloads"))
    ahead = plan_bench("bench/vtab", out=tmp_path / "out", quiet=True)
    assert {cell.state for cell in ahead.cells} == {"absent"}
    assert len(ahead.cells) == ahead.untimed == 19 * 4
    backbone, data_sets = ahead.absent[-1], ahead.absent[:-1]
    assert [reason.split(":")[0] for reason in data_sets] == [f"data set {name}" for name in TASKS]
    assert backbone.startswith("backbone bit-m-r50x1: not here yet")
    assert not list(tmp_path.iterdir())


def test_the_benchmark_measures_what_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads that fail cost their own data sets alone, and come after all that is here was looked at."""
    prepare(TASKS["svhn"], tmp_path, {"train": 2000, "test": 50}, lambda *at: row(at[0], "svhn", at[1]))
    tried: list[str] = []

    def fetch(tfds: Any, builder: Any, reporter: Any) -> None:
        tried.append(builder.name)
        raise DataError("no network")

    monkeypatch.setattr(tfds_builder, "_fetch", fetch)
    asked: dict[str, Any] = {
        "datasets": {name: {"dataset": f"vtab:{name}", "data_dir": str(tmp_path)} for name in ("dtd", "svhn")},
        "backbones": ["bit-r26x0.5"],
        "shots": ["full"],
        "methods": {"probe": {}},
    }
    grid = Grid.model_validate(asked)
    found = planned_cells(grid, grid.cells(), Heard())
    assert [one.cell.dataset for one in found.planned] == ["svhn"]
    assert {cell.dataset: reason for cell, reason in found.absent.items()} == {
        "dtd": "data set dtd: vtab:dtd: no network"
    }
    asked["datasets"]["svhn"]["test"] = "held-out"
    grid = Grid.model_validate(asked)
    with pytest.raises(RecipeError, match="leave out test: held-out"):
        planned_cells(grid, grid.cells(), Heard())
    assert tried == ["dtd"]


@pytest.mark.usefixtures("tenth")
def test_classes_without_training_images(few: Callable[[str], Path]) -> None:
    """SUN397 has 397 classes and VTAB-1k 1,000 images, chosen by their places."""
    info = Source("vtab:sun397", listing(few("sun397"), "sun397"), reporter=Heard()).info
    assert info.splits["train"].examples == 10
    assert info.splits["train"].per_class.count(0) == 397 - 8
    assert "train has no images of 389 classes" in " ".join(info.warnings)


def test_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind_of("vtab:pets").name == "VTAB-1k"
    assert all(re.search(rf"\b{name}\b", KINDS["VTAB-1k"].explained) for name in TASKS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    assert located("vtab:pets") == "vtab:pets"


def test_tasks() -> None:
    assert [sum(task.group == group for task in TASKS.values()) for group in get_args(Group)] == [7, 4, 8]


def test_score() -> None:
    """Every task counts once: the mean of tasks, not of groups."""
    of_group = {"natural": 0.8, "specialized": 0.6, "structured": 0.4}
    top1 = {name: of_group[task.group] for name, task in TASKS.items()}
    assert score(top1) == pytest.approx(((7 * 0.8 + 4 * 0.6 + 8 * 0.4) / 19, 0.8, 0.6, 0.4))
    del top1["eurosat"]
    assert score(top1) == (None, pytest.approx(0.8), None, pytest.approx(0.4))
    with pytest.raises(ValueError, match="imagenet"):
        score({"imagenet": 0.8})
