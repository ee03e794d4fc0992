"""Hugging Face data sets: saved to disk or in the cache, read from their Arrow tables without network."""

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import Heard
from PIL import Image
from writers import LabelledImage
from writers import huggingface as writer

from hyperrule.data.images import Files, TableColumn
from hyperrule.data.listing import DataRequest, Listing
from hyperrule.data.sources.huggingface import list_huggingface
from hyperrule.errors import DataError

datasets = pytest.importorskip("datasets", reason="needs the extra hf: pip install 'hyperrule[hf]'")

SIZES = {"train": 12, "valid": 3, "test": 4}


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def dataset(columns: dict[str, list[Any]], **features: Any) -> Any:
    """Image i has i as its grey value."""
    count = len(next(iter(columns.values())))
    images = [{"bytes": encoded(number), "path": None} for number in range(count)]
    return datasets.Dataset.from_dict(
        {"image": images} | columns, features=datasets.Features(image=datasets.Image(), **features)
    )


def listing(folder: Path | str, **options: Any) -> Listing:
    return list_huggingface(DataRequest(str(folder), **options), Heard(), fetch=False)


def message(folder: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        listing(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "pets"
    label = datasets.ClassLabel(names=["newt", "ant", "yak & co"])
    parts = {
        split: dataset({"label": [number % 3 for number in range(size)]}, label=label) for split, size in SIZES.items()
    }
    datasets.DatasetDict(parts).save_to_disk(folder, num_shards={"train": 3, "valid": 1, "test": 1})
    return folder


def test_saved(pets: Path) -> None:
    found = listing(pets)
    assert found.class_names == ("newt", "ant", "yak & co")
    assert found.class_order == "the data set's own"
    assert found.origins == {"train": "split train", "validation": "split valid", "test": "split test"}
    assert isinstance(found.contents, TableColumn)
    assert found.cost == ""
    for (split, members), size in zip(found.splits.items(), SIZES.values(), strict=True):
        assert [found.contents[i] for i in members] == [encoded(number) for number in range(size)]
        assert found.labels[members].tolist() == [number % 3 for number in range(size)]
        assert found.ids[members[1]] == f"{'valid' if split == 'validation' else split}/00001"


def test_without_network_and_tensorflow(pets: Path) -> None:
    code = f"""
import socket, sys
def refuse(*_, **__): raise SystemExit("network")
socket.getaddrinfo = socket.socket.connect = refuse
from hyperrule.data.listing import DataRequest
from hyperrule.data.sources.huggingface import list_huggingface
from hyperrule.support.progress import Reporter
found = list_huggingface(DataRequest({str(pets)!r}), Reporter())
assert len(found.ids) == 19, found
assert not {{"tensorflow", "keras", "tensorflow_datasets"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        ({"train": "train[:75%]", "test": "train[75%:]"}, {"train": 9, "validation": 3, "test": 3}),
        ({"train": "train+valid"}, {"train": 15, "test": 4}),
        ({"train": "train[:8]+valid[:2]"}, {"train": 10, "test": 4}),
        ({"test": "valid"}, {"train": 12, "test": 3}),
    ],
)
def test_splits(pets: Path, splits: dict[Any, str], sizes: dict[str, int]) -> None:
    found = listing(pets, splits=splits)
    assert {split: len(members) for split, members in found.splits.items()} == sizes
    assert len(found.ids) == len(set(found.ids)) == sum(sizes.values())


def test_members_of_an_expression(pets: Path) -> None:
    found = listing(pets, splits={"train": "train[-4:-2]+valid[1:]+train[:1]"})
    members = found.splits["train"]
    assert [found.contents[i] for i in members] == [encoded(number) for number in (0, 8, 9, 1, 2)]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": "train[:98%]", "test": "train[50%:]"}, ["train[50%:]", "6 images in common"]),
        ({"train": "training"}, ["'training'", "train (12)"]),
        ({"train": "train[:"}, ["'train[:'"]),
        ({"train": "train[5:5]"}, ["empty"]),
    ],
)
def test_bad_splits(pets: Path, splits: dict[Any, str], words: list[str]) -> None:
    said = message(pets, splits=splits)
    assert all(word in said for word in words), said


def test_rows_in_another_order(tmp_path: Path) -> None:
    """Selected and shuffled rows, over a table that has them all."""
    ordered = dataset({"label": ["a", "b"] * 5}, label=datasets.Value("string"))
    chosen = ordered.select([9, 2, 7, 4])
    assert chosen._indices is not None
    other = ordered.select([0, 1, 5])
    parts = {"train": chosen, "test": other}
    found = list_of(parts, tmp_path)
    assert [found.contents[i] for i in range(7)] == [encoded(number) for number in (9, 2, 7, 4, 0, 1, 5)]
    assert [found.class_names[label] for label in found.labels] == ["b", "a", "b", "a", "a", "b", "b"]


def list_of(parts: dict[str, Any], tmp_path: Path) -> Listing:
    """As if save_to_disk had kept the tables that the rows are chosen from, which versions of it did."""
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_from_disk", lambda _: datasets.DatasetDict(parts))
        return listing(tmp_path / "saved")


def test_one_split(tmp_path: Path) -> None:
    dataset({"label": [1, 0, 1]}, label=datasets.ClassLabel(names=["x", "y"])).save_to_disk(tmp_path / "saved")
    found = listing(f"hf:{tmp_path / 'saved'}")
    assert list(found.splits) == ["train"]
    assert found.labels.tolist() == [1, 0, 1]
    assert found.ids == ["train/00000", "train/00001", "train/00002"]


@pytest.mark.parametrize("bare", [[None, None], [-1, -1]])
def test_unlabelled_test_split(tmp_path: Path, bare: list[Any]) -> None:
    label = datasets.ClassLabel(names=["x", "y"])
    parts = {"test": dataset({"label": bare}, label=label), "train": dataset({"label": [0, 1, 1]}, label=label)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    found = listing(tmp_path)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.contents[2] == encoded(2)
    assert "test has no labels" in " ".join(found.notes)
    assert "2 of 2 images of test" in message(tmp_path, splits={"test": "test"})


@pytest.mark.parametrize(
    ("values", "kind", "class_names"),
    [
        (["10", "9", "9"], "string", ("9", "10")),
        ([10, 9, 9], "int16", ("9", "10")),
        ([True, False, True], "bool", ("false", "true")),
        (["b", "a", "b"], "large_string", ("a", "b")),
    ],
)
def test_labels_that_are_values(tmp_path: Path, values: list[Any], kind: str, class_names: tuple[str, ...]) -> None:
    dataset({"label": values}, label=datasets.Value(kind)).save_to_disk(tmp_path)
    found = listing(tmp_path)
    assert found.class_names == class_names
    assert [found.class_names[label] for label in found.labels] == [str(value).lower() for value in values]


def test_missing_labels(tmp_path: Path) -> None:
    dataset({"label": ["a", None, "b"]}, label=datasets.Value("string")).save_to_disk(tmp_path)
    assert "1 of 3 images of train" in message(tmp_path)


def test_keys(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["x", "y"])
    columns = {"fine_label": [0, 1], "coarse_label": [1, 0], "share": [0.5, 0.1]}
    several = dataset(columns, fine_label=label, coarse_label=label, share=datasets.Value("float32"))
    several.save_to_disk(tmp_path / "several")
    said = message(tmp_path / "several")
    assert "several labels: fine_label, coarse_label" in said
    assert "--label-key fine_label" in said
    assert listing(tmp_path / "several", label_key="coarse_label").labels.tolist() == [1, 0]
    assert "Did you mean 'fine_label'" in message(tmp_path / "several", label_key="fine_labl")
    assert "'share'" in message(tmp_path / "several", label_key="share")
    dataset({"share": [0.5, 0.1]}, share=datasets.Value("float32")).save_to_disk(tmp_path / "none")
    assert "no image-level label" in message(tmp_path / "none")
    datasets.Dataset.from_dict({"label": [0, 1]}).save_to_disk(tmp_path / "blind")
    assert "no image" in message(tmp_path / "blind")


def test_paths_only(tmp_path: Path) -> None:
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=["x", "y"]))
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for number, file in enumerate(files):
        file.write_bytes(encoded(number))
    rows = {"img": [{"bytes": None, "path": str(file)} for file in files], "label": [0, 1]}
    paths = datasets.Dataset.from_dict(rows, features=features)
    found = list_of({"train": paths}, tmp_path)
    assert isinstance(found.contents, Files)
    assert [found.contents[i] for i in range(2)] == [encoded(0), encoded(1)]
    assert found.ids == ["train/00000", "train/00001"]
    rows["img"][0] = {"bytes": encoded(0), "path": None}
    with pytest.raises(DataError, match="1 of 2 images"):
        list_of({"train": datasets.Dataset.from_dict(rows, features=features)}, tmp_path / "mixed")


def test_splits_of_other_columns(tmp_path: Path) -> None:
    parts = {
        "train": dataset({"label": ["a", "b"]}, label=datasets.Value("string")),
        "test": dataset({"label": [0, 1]}, label=datasets.Value("int64")),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    assert "split test" in message(tmp_path)


def test_half_there(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "copy")
    next((tmp_path / "copy/train").glob("data-00001-*")).unlink()
    assert "data-00001" in message(tmp_path / "copy")


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "nobody/nothing/config"])
def test_not_in_the_cache(tmp_path: Path, name: str) -> None:
    said = message(f"hf:{name}", data_dir=tmp_path)
    assert f"hf:{name} is not in {tmp_path}" in said
    assert "finetune" in said
    assert list(tmp_path.iterdir()) == []


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE.*save_to_disk"):
        list_huggingface(DataRequest("hf:nobody/nothing", data_dir=tmp_path), Heard())


def test_bad_requests(tmp_path: Path) -> None:
    assert "does not exist" in message("hf:a/b", data_dir=tmp_path / "nowhere")
    assert "hf:ORGANISATION/NAME/CONFIG" in message("hf:a/b/c/d")


def test_cached(pets: Path, tmp_path: Path) -> None:
    """As load_dataset leaves it: ORGANISATION___NAME/CONFIG/VERSION/HASH."""
    for config in ("small", "large"):
        cached = tmp_path / "nobody___pets" / config / "0.0.0" / "0123456789abcdef"
        cached.mkdir(parents=True)
        saved = datasets.load_from_disk(str(pets))
        infos = datasets.SplitDict()
        for split, part in saved.items():
            writer = datasets.arrow_writer.ArrowWriter(features=part.features, path=str(cached / f"pets-{split}.arrow"))
            writer.write_table(part.data.table)
            writer.finalize()
            infos.add(datasets.SplitInfo(split, num_examples=len(part), dataset_name="pets"))
        datasets.DatasetInfo(
            features=saved["train"].features, splits=infos, config_name=config, dataset_name="pets", version="0.0.0"
        ).write_to_directory(str(cached))
    found = listing("hf:nobody/pets/large", data_dir=tmp_path)
    assert found.location == tmp_path / "nobody___pets/large/0.0.0/0123456789abcdef"
    assert [len(members) for members in found.splits.values()] == [12, 3, 4]
    assert found.contents[11] == encoded(11)
    said = message("hf:nobody/pets", data_dir=tmp_path)
    assert "configurations" in said
    assert "large" in said


def test_package_is_missing(monkeypatch: pytest.MonkeyPatch, pets: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'hyperrule[hf]'" in message(pets)


def test_writer(tmp_path: Path) -> None:
    images = [
        LabelledImage(split, name, f"{number}.png", encoded(number))
        for split in ("train", "test")
        for number, name in enumerate(["b/c", "<a>", "b/c"])
    ]
    found = listing(writer.write(tmp_path, images)["dataset"])
    assert [found.contents[i] for i in range(6)] == [image.encoded for image in images]
    assert [found.class_names[label] for label in found.labels] == [image.class_name for image in images]
    assert found.ids[:2] == ["train/0.png", "train/1.png"]
