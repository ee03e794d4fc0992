"""Tables of images, clean and dirty, written as people and programs write them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hyperrule.data.listing import AS_NUMBERS, AS_TEXT, DataRequest, Listing
from hyperrule.data.sources.manifest import list_manifest
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter

FILES = ("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg", "sub/e f.jpg", 'q,"uo\nte.jpg', " blank.jpg")

NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"x"]).buffers())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def listed_from(table: Path, **keys: Any) -> Listing:
    return list_manifest(DataRequest(str(table), **keys), Reporter(quiet=True))


def text(folder: Path, content: str | bytes, name: str = "images.csv") -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def jsonl(folder: Path, rows: Sequence[Any]) -> Path:
    return text(folder, "".join(f"{json.dumps(row)}\n" for row in rows), "images.jsonl")


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "images.parquet")
    return folder / "images.parquet"


def refused(table: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        listed_from(table, **keys)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def names_of(listing: Listing) -> list[str]:
    return [listing.class_names[label] for label in listing.labels]


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolons", "jsonl", "ndjson", "parquet"])
def test_every_format_lists_the_same(folder: Path, kind: str) -> None:
    rows = [("b.jpg", "cat", "train"), ("sub/d.jpg", "<b>dog</b> 🐕", "val"), (str(folder / "a.jpg"), "cat", "test")]
    header = ("path", "label", "split")
    if kind == "parquet":
        table = parquet(
            folder, **{name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}
        )
    elif kind in ("jsonl", "ndjson"):
        table = jsonl(folder, [dict(zip(header, row, strict=True)) for row in rows]).rename(folder / f"images.{kind}")
    else:
        separator = {"csv": ",", "tsv": "\t", "semicolons": ";"}[kind]
        content = "".join(f"{separator.join(row)}\n" for row in (header, *rows))
        table = text(folder, content, "images.tsv" if kind == "tsv" else "images.csv")
    listing = listed_from(table)
    assert list(listing.ids) == [path for path, *_ in rows]
    assert names_of(listing) == [name for _, name, _ in rows]
    assert listing.class_names == ("<b>dog</b> 🐕", "cat")
    assert [listing.contents[i] for i in range(3)] == [b"b.jpg", b"sub/d.jpg", b"a.jpg"]
    assert {split: members.tolist() for split, members in listing.splits.items()} == {
        "train": [0],
        "validation": [1],
        "test": [2],
    }
    assert listing.origins["validation"] == "rows of split val"
    assert listing.class_order == AS_TEXT
    assert listing.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"\xef\xbb\xbfpath,label\r\na.jpg,x\r\nb.jpg,y\r\n", ["a.jpg", "b.jpg"]),
        (b"\npath, label \n\na.jpg,x\n", ["a.jpg"]),
        (b"label,extra,Filename\nx,1,a.jpg\n", ["a.jpg"]),
        (b'path,label\n"q,""uo\nte.jpg",x\nb.jpg,y\n', ['q,"uo\\nte.jpg', "b.jpg"]),
        (b"path,label\nsub/e f.jpg,x", ["sub/e f.jpg"]),
        (b"path,label\n blank.jpg,x\n", [" blank.jpg"]),
    ],
    ids=["BOM and CRLF", "empty lines", "order and case of columns", "quotes", "no last newline", "blank in a name"],
)
def test_csv_as_people_write_it(folder: Path, content: bytes, ids: list[str]) -> None:
    listing = listed_from(text(folder, content))
    assert list(listing.ids) == ids
    assert all(len(listing.contents[i]) for i in range(len(ids)))
    assert listing.notes == ()
    assert listing.splits == {}


def test_backslashes_and_blanks_around_paths_are_mended(folder: Path) -> None:
    listing = listed_from(text(folder, "label,path\nx,sub\\d.jpg\ny, a.jpg\nx,b.jpg\n"))
    assert list(listing.ids) == ["sub\\d.jpg", " a.jpg", "b.jpg"]
    assert [listing.contents[i] for i in range(3)] == [b"sub/d.jpg", b"a.jpg", b"b.jpg"]
    assert "2 paths" in listing.notes[0]


@pytest.mark.parametrize(
    ("labels", "class_names", "order"),
    [
        (["10", "9", "10"], ("9", "10"), AS_NUMBERS),
        (["10.0", "9", "10"], ("9", "10"), AS_NUMBERS),
        (["-1", "1", "1"], ("-1", "1"), AS_NUMBERS),
        (["07", "10", "9"], ("07", "9", "10"), AS_NUMBERS),
        ([" cat", "cat ", "NA"], ("NA", "cat"), AS_TEXT),
        (["n01", "n1.5", "true"], ("n01", "n1.5", "true"), AS_TEXT),
    ],
)
def test_labels_of_csv(folder: Path, labels: list[str], class_names: tuple[str, ...], order: str) -> None:
    rows = "".join(f"{path},{label}\n" for path, label in zip(("a.jpg", "b.jpg", "c.jpg"), labels, strict=True))
    listing = listed_from(text(folder, f"path,label\n{rows}"))
    assert (listing.class_names, listing.class_order) == (class_names, order)


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        ([10, 9, 10], ("9", "10")),
        ([10.0, 9.0, 9.0], ("9", "10")),
        ([10, 9.0, 9], ("9", "10")),
        (["10", "9", "cat"], ("10", "9", "cat")),
        (["1.5", "2.5", "2.5"], ("1.5", "2.5")),
        (["2020-01-01", "2021-01-01", "x"], ("2020-01-01", "2021-01-01", "x")),
        ([True, False, True], ("false", "true")),
    ],
)
def test_labels_that_have_types(folder: Path, labels: list[Any], class_names: tuple[str, ...]) -> None:
    paths = ["a.jpg", "b.jpg", "c.jpg"]
    rows = [{"path": path, "label": label} for path, label in zip(paths, labels, strict=True)]
    tables = [jsonl(folder, rows)]
    if len({type(label) for label in labels}) == 1:
        tables.append(parquet(folder, path=paths, label=labels))
    for table in tables:
        assert listed_from(table).class_names == class_names


def test_categories_of_parquet_are_their_values(folder: Path) -> None:
    columns = {
        "path": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
        "label": pa.array(["x", "y"], pa.large_string()).dictionary_encode(),
        "split": pa.array(["train", "test"]).dictionary_encode(),
    }
    listing = listed_from(parquet(folder, **columns))
    assert names_of(listing) == ["x", "y"]
    assert list(listing.splits) == ["train", "test"]


def test_other_columns_by_their_keys(folder: Path) -> None:
    table = text(folder, "path,label,where,what\nno,0,a.jpg,x\nno,1,b.jpg,y\n")
    assert listed_from(table, image_key="where", label_key="what").class_names == ("x", "y")


def test_columns_of_json_that_first_rows_lack(folder: Path) -> None:
    rows = [{"path": "a.jpg", "label": None, "split": "no"}, {"path": "b.jpg", "label": 3, "split": "train"}]
    listing = listed_from(jsonl(folder, [{"other": [1]}, *rows]))
    assert list(listing.ids) == ["b.jpg"]
    assert listing.notes == ("2 rows of split '', 'no' are left out",)


def test_rows_of_other_splits_are_left_out(folder: Path) -> None:
    table = text(folder, "path,label,split\na.jpg,x,Train\nno such file,,holdout\nb.jpg,y,test\nc.jpg,z,\n")
    listing = listed_from(table)
    assert list(listing.ids) == ["a.jpg", "b.jpg"]
    assert listing.class_names == ("x", "y")
    assert listing.splits["test"].tolist() == [1]
    assert listing.notes == ("2 rows of split 'holdout', '' are left out",)


def test_splits_by_request(folder: Path) -> None:
    table = text(folder, "path,label,split\na.jpg,x,0\nb.jpg,y,1\n")
    assert listed_from(table, splits={"train": "0", "test": "1"}).origins == {
        "train": "rows of split 0",
        "test": "rows of split 1",
    }
    assert "'9'" in refused(table, splits={"train": "9"})
    assert all(word in refused(table) for word in ("'0'", "'1'", "--train-split"))
    unsplit = text(folder, "path,label\na.jpg,x\nb.jpg,y\n")
    assert "no column 'split'" in refused(unsplit, splits={"train": "0"})


def test_ids_of_repeated_paths_tell_their_row(folder: Path) -> None:
    table = text(folder, "path,label\na.jpg,x\n\na.jpg,x\nb.jpg,y\na.jpg,y\n")
    listing = listed_from(table)
    assert list(listing.ids) == ["a.jpg", "a.jpg (row 4)", "b.jpg", "a.jpg (row 6)"]
    assert names_of(listing) == ["x", "x", "y", "y"]
    assert listing.notes == ("1 rows repeat an earlier one (path, label and split)",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty", "path"]),
        ("path,label\n", ["no rows", "header"]),
        ("a.jpg,cat\nb.jpg,dog\n", ["no header", "a.jpg, cat", "path,label"]),
        ("path,label,label\na.jpg,x,y\n", ["more than one column 'label'"]),
        ("path,sort\na.jpg,x\n", ["no column of labels", "'sort'", "--label-key"]),
        ("where,label\na.jpg,x\n", ["no column of paths", "'where'", "--image-key"]),
        ("path,label\na.jpg,x\nb.jpg\n", ["2 cells", "row 3 has 1"]),
        ("path,label\na.jpg,x\n\nb,.jpg,y\n", ["2 cells", "row 4 has 3", "quoted"]),
        ("path,label\na.jpg,\nb.jpg,x\nc.jpg, \n", ["'label'", "empty", "row 2, 4"]),
        ("path,label\n,x\nb.jpg,y\n", ["'path'", "empty", "row 2"]),
        ("path,label\na.jpg,3\nb.jpg,cat\nc.jpg,7\n", ["mixes", "'3' (row 2, 4)", "'cat' (row 3)", ".jsonl"]),
        (f"path,label\na.jpg,3\nb.jpg,{'9' * 5000}\n", ["mixes", "'999", "..."]),
        ("path,label\na.jpg,3\nb.jpg,4.5\n", ["fractions", "'4.5' (row 3)"]),
        ("path,label\na.jpg,3\nb.jpg,03\n", ["two ways", "'03', '3'"]),
        ("path,label\na.jpg,x\nz.jpg,y\n", ["1 of 2", "row 3: z.jpg", "relative to"]),
        ('path,label\n"q,""uo\nte.jpg",x\nz.jpg,y\n', ["row 4: z.jpg"]),
        ("path,label\na.jpg,x\nsub,y\n", ["folders", "row 3: sub"]),
        ("path,label\na.jpg/z.jpg,x\n/no/z.jpg,y\nz\0.jpg,z\n", ["3 of 3", "a.jpg/z.jpg", "/no/z.jpg"]),
        ("path,label,split\na.jpg,x,\n", ["no value such as train"]),
        ("path,label,split\na.jpg,x,train\nb.jpg,y,training\n", ["two names", "train and training"]),
        ('path,label\n"a.jpg,x\nb.jpg,y\n', ["row 2"]),
        (b"path,label\na.jpg,x\nb.jpg,\xe4\n", ["UTF-8", "row 3"]),
        ("path,label\na.jpg,x\n".encode("utf-16"), ["UTF-8"]),
    ],
)
def test_bad_csv(folder: Path, content: str | bytes, words: list[str]) -> None:
    said = refused(text(folder, content))
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        ('{"path":"a.jpg","label":"x"}\n\n{"path":"b.jpg"\n', ["row 3", "not JSON"]),
        ('[{"path":"a.jpg","label":"x"}]\n', ["row 1", "not a JSON object"]),
        ('{"path":"a.jpg","label":"x"}\n["b.jpg"]\n', ["row 2", "not a JSON object"]),
        ('{"path":"a.jpg","label":3}\n{"path":"b.jpg","label":"cat"}\n', ["numbers (row 1)", "text (row 2)", "quotes"]),
        ('{"path":"a.jpg","label":"x"}\n{"path":"b.jpg","label":true}\n', ["text (row 1)", "true or false (row 2)"]),
        ('{"path":"a.jpg","label":["x","y"]}\n', ["lists (row 1)", "one text"]),
        ('{"path":"a.jpg","label":1}\n{"path":"b.jpg","label":1.5}\n', ["fractions"]),
        ('{"path":"a.jpg","label":"x"}\n{"path":"b.jpg","label":null}\n', ["'label'", "empty", "row 2"]),
        ('{"path":"a.jpg","label":"x"}\n\n{"label":"y"}\n', ["'path'", "empty", "row 3"]),
        ('{"path":"a.jpg","label":"x"}\n\n{"path":"z.jpg","label":"y"}\n', ["row 3: z.jpg"]),
        (b'{"path":"a.jpg","label":"\xe4"}\n', ["row 1", "UTF-8"]),
        ('{"path":"a.jpg","sort":"x"}\n', ["no column of labels", "'sort'"]),
        ('{"path":' + "[" * 100_000, ["row 1", "recursion"]),
        (f'{{"path":"a.jpg","label":{"9" * 5000}}}\n', ["row 1", "5000 digits"]),
    ],
)
def test_bad_json(folder: Path, content: str | bytes, words: list[str]) -> None:
    said = refused(text(folder, content, "images.jsonl"))
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": pa.array([], pa.string()), "label": pa.array([], pa.string())}, ["no rows"]),
        ({"path": ["a.jpg", "b.jpg"], "label": [0.5, 1.0]}, ["'label'", "fractions"]),
        ({"path": ["a.jpg", "b.jpg"], "label": [1.0, float("nan")]}, ["'label'", "empty", "row 2"]),
        ({"path": ["a.jpg", "b.jpg"], "label": [None, None]}, ["'label'", "empty", "row 1, 2"]),
        ({"path": ["a.jpg", "b.jpg"], "label": [["x"], ["y"]]}, ["'label'", "list", "one per image"]),
        ({"image": [b"\xff\xd8", b"\xff\xd8"], "label": [0, 1]}, ["'image'", "binary", "text"]),
        ({"path": ["a.jpg", "z.jpg"], "label": [0, 1]}, ["row 2: z.jpg"]),
        ({"path": ["a.jpg", "b.jpg"], "label": NOT_UTF8}, ["'label'", "not UTF-8"]),
    ],
)
def test_bad_parquet(folder: Path, columns: dict[str, Any], words: list[str]) -> None:
    said = refused(parquet(folder, **columns))
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize("left", [0, 3, 200])
def test_a_parquet_file_that_is_cut_short(folder: Path, left: int) -> None:
    table = parquet(folder, path=["a.jpg"], label=["x"])
    table.write_bytes(table.read_bytes()[:left])
    assert "not a complete Parquet file" in refused(table)


def test_a_key_that_is_not_there_is_guessed(folder: Path) -> None:
    table = text(folder, "path,species\na.jpg,x\n")
    assert "Did you mean 'species'?" in refused(table, label_key="specie")


def test_missing_files_are_counted_and_a_few_are_named(folder: Path) -> None:
    said = refused(text(folder, "path,label\n" + "".join(f"z{i}.jpg,x\n" for i in range(900))))
    assert "900 of 900" in said
    assert "row 6: z4.jpg and 895 more" in said


@pytest.mark.parametrize("name", ["missing.csv", "folder.csv", "missing.parquet", "folder.jsonl"])
def test_a_table_that_cannot_be_opened(folder: Path, name: str) -> None:
    if name.startswith("folder"):
        (folder / name).mkdir()
    assert f"cannot read {folder / name}" in refused(folder / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_table_that_may_not_be_read(folder: Path) -> None:
    table = text(folder, "path,label\na.jpg,x\n")
    table.chmod(0)
    assert "Permission denied" in refused(table)
