"""The files that `predict` finds, and the same predictions as text, CSV, JSON, JSON lines and Parquet."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from modules import SmallNet
from PIL import Image

import hyperrule
from hyperrule.cli import main
from hyperrule.cli.prediction_outputs import people
from hyperrule.errors import DataError, RecipeError, RunError
from hyperrule.prediction import writers
from hyperrule.prediction.images import find_images
from hyperrule.prediction.predictions import Prediction, Predictions, ScoredClass

SIZE = 32
NAMES = ("comma, quote\" and 'more'", "<b>*bold*</b>", "red\x1b[31m", "ünïcödé 🐈", "=1+1", "tab\tname", "\\xff")
NAMES += tuple(map(str, range(len(NAMES), 16)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Arguments that name a classifier of 16 classes with the names of strangers."""
    folder = tmp_path_factory.mktemp("model")
    SmallNet().save(folder / "small")
    (folder / "names").write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERRULE_CACHE_DIR", str(folder))
        yield [str(folder / "small"), "--size", str(SIZE), "--class-names", str(folder / "names")]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, other files, and links that lead in a circle; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/b/2.PNG", "a/b/notes.txt", "a/.hidden.jpg", "a/[x].jpg", "c/3.jpg", "list", "~x.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for name in ("here", "again"):
        Path("a/b", name).symlink_to(".")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a"], ["a/1.jpg", "a/[x].jpg", "a/b/2.PNG"]),
        (["c", "a/b", "list"], ["c/3.jpg", "a/b/2.PNG", "list"]),
        (["a/*"], ["a/1.jpg", "a/[x].jpg", "a/b/2.PNG"]),
        (["?/[0-9].jpg"], ["a/1.jpg", "c/3.jpg"]),
        (["a/[x].jpg"], ["a/[x].jpg"]),
        (["**"], ["~x.jpg", "a/1.jpg", "a/[x].jpg", "a/b/2.PNG", "c/3.jpg"]),
        (["**/*.jpg"], ["~x.jpg", "a/1.jpg", "a/[x].jpg", "c/3.jpg"]),
        (["?/**/2.*", "c/3.jpg", "c/3.jpg"], ["a/b/2.PNG", "c/3.jpg", "c/3.jpg"]),
        (["a/**/b/*"], ["a/b/2.PNG"]),
        (["{}/c/**/"], ["{}/c/3.jpg"]),
        (["{}/**/c/*"], ["{}/c/3.jpg"]),
    ],
)
def test_files_folders_and_globs(tree: Path, given: list[str], found: list[str]) -> None:
    assert find_images(path.format(tree) for path in given) == [path.format(tree) for path in found]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"c/3.jpg\na/1.jpg\n", ["c/3.jpg", "a/1.jpg"]),
        (b"c/3.jpg\r\n\r\ngone *.jpg", ["c/3.jpg", "gone *.jpg"]),
        (b"two\nlines.jpg\0c/3.jpg\0", ["two\nlines.jpg", "c/3.jpg"]),
        (b"\xff.jpg\nc", [os.fsdecode(b"\xff.jpg"), "c/3.jpg"]),
    ],
)
def test_a_list_on_stdin(tree: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, found: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert find_images(["list", "-"]) == ["list", *found]


@pytest.mark.parametrize(
    ("given", "data", "words"),
    [
        ("a/*.jgp", b"", "no image matches 'a/*.jgp'. In globs and folders, only these files count: .bmp, .gif"),
        ("gone/**/*.jpg", b"", "no image matches 'gone/**/*.jpg'"),
        ("-", b"\n\n", "the list of images on stdin is empty"),
        ("-", b"gone\nlost\n", "none of the files listed on stdin exists: gone, lost."),
        ("/dev/null", b"", "/dev/null is neither a file nor a folder"),
    ],
)
def test_images_that_are_not_found(
    tree: Path, monkeypatch: pytest.MonkeyPatch, given: str, data: bytes, words: str
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    with pytest.raises(DataError) as refused:
        find_images([given])
    assert words in str(refused.value)


def test_all_formats_say_the_same(model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writers, "ROW_GROUP", 4)
    rng = np.random.default_rng(0)
    for index in range(9):
        pixels = rng.integers(0, 60 + 20 * index, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(os.fsdecode(b'%d\xff,".png' % index))
    bad = os.fsdecode(b'4\xff,".png')
    Path(bad).write_text("text")
    images = sorted(map(str, Path().glob("*.png")))
    expected = hyperrule.predict(model[0], images, top=3, size=SIZE, class_names=model[-1], quiet=True)
    scores = sorted(row.classes[0].score for row in expected if row.classes)
    threshold = (scores[3] + scores[4]) / 2

    options = ["--top", "3", "--threshold", str(threshold)]
    files = ["--csv", "o.csv", "--jsonl", "o.jsonl", "--parquet", "o.parquet", "--json"]
    listed = b"\0".join(map(os.fsencode, images))
    result = CliRunner().invoke(main, ["predict", *model, "-", *options, *files], input=listed)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        "1 of 9 images cannot be decoded",
        f"4 of 9 images are uncertain: the best score is below {threshold:g}",
    ]
    rows = json.loads(result.stdout)
    assert [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()] == rows
    assert [row["image"] for row in rows] == [row.image for row in expected]
    assert [[found["class"] for found in row["predictions"]] for row in rows] == [
        [found.class_name for found in row.classes] for row in expected
    ]
    assert [row.get("abstained", False) for row in rows] == [
        bool(row.classes) and row.classes[0].score < threshold for row in expected
    ]
    assert rows[4] == {"image": '4\\xff,".png', "predictions": [], "error": expected[4].error}

    with Path("o.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    columns = ["image", "label", "score", "label_2", "score_2", "label_3", "score_3", "abstained", "error"]
    assert list(table[0]) == columns
    for line, row in zip(table, expected, strict=True):
        abstained = line["abstained"] == "true"
        labels = ["" if abstained else found.class_name for found in row.classes] or [""] * 3
        assert [line[f"label{place}"] for place in ("", "_2", "_3")] == labels
        assert line["error"] == (row.error or "")
        written = [float(line[f"score{place}"] or "nan") for place in ("", "_2", "_3")]
        assert written == pytest.approx([found.score for found in row.classes] or [np.nan] * 3, rel=1e-4, nan_ok=True)
    assert sum(line["abstained"] == "true" for line in table) == 4

    parquet = pq.ParquetFile("o.parquet")
    assert parquet.num_row_groups == 3
    assert parquet.schema_arrow.field("score").type == pa.float32()
    stored = parquet.read().to_pylist()
    assert [row["label"] or "" for row in stored] == [line["label"] for line in table]
    assert [row["predictions"] for row in stored] == [
        [{"class": f.class_name, "wnid": None, "index": f.index, "score": f.score} for f in row.classes]
        for row in expected
    ]
    assert [row["abstained"] for row in stored] == [line["abstained"] == "true" for line in table]
    assert [row["error"] for row in stored] == [row.error for row in expected]

    text = CliRunner().invoke(main, ["predict", *model, *images, *options]).stdout
    assert text.count("  uncertain: ") == 4
    assert "\x1b" not in text


def test_rows_come_before_the_last_images_are_read(model: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    paths = [tmp_path / "0.png", *(tmp_path / f"{index}.png" for index in range(1, 600))]
    for path in paths[1:]:
        shutil.copy(paths[0], path)
    rows = hyperrule.predict_each(model[0], tmp_path / "*.png", size=SIZE, class_names=model[-1], quiet=True)
    first = next(rows)
    assert first.error is None
    for path in paths:
        path.unlink()
    errors = [row.error for row in rows]
    assert (len(errors), errors[-1]) == (599, "No such file or directory")


def test_mistakes_are_raised_at_the_call(model: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(RecipeError, match=r"threshold must be a probability, from 0 to 1\. Received: 1\.5"):
        hyperrule.predict_each(model[0], tmp_path, threshold=1.5)
    with pytest.raises(DataError, match="no such image"):
        hyperrule.predict_each(model[0], tmp_path / "gone")


def test_what_cannot_be_finished_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[Prediction]:
        yield Prediction("0.png", (ScoredClass("a", "", 0, 1.0),))
        raise RunError("the device is gone.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyperrule.cli.classifiers.predict_each", lambda *_, **__: Predictions(1, rows()))
    Path("o.csv").write_text("of before")
    files = ["--csv", "o.csv", "--jsonl", "o.jsonl", "--parquet", "o.parquet"]
    result = CliRunner().invoke(main, ["predict", "any", "any", *files])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "hyperrule: the device is gone.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["o.csv"]
    assert Path("o.csv").read_text() == "of before"


def test_a_terminal_shows_colours_and_no_codes_of_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown: list[str] = []
    write = people(SimpleNamespace(write=shown.append, isatty=lambda: True))  # type: ignore[arg-type]
    write(
        Prediction(
            "\x1b[2Jx.png", (ScoredClass("\x1b[31mred", "n1", 0, 0.43), ScoredClass("b", "", 1, 0.4)), abstained=True
        )
    )
    assert "uncertain: n1  \\x1b[31mred 43%" in shown[0]
    assert "\x1b[2m" in shown[0]
    assert "\x1b[2J" not in shown[0]
    assert "\x1b[31m" not in shown[0]
