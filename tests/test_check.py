"""`hyperrule check`: what it finds in messy data, what it proposes, and how it reports."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from test_inspection import scene

import hyperrule
from hyperrule.audit.check.near_duplicates import WINDOW, near_pairs
from hyperrule.cli import main
from hyperrule.data.inspection import FACTS
from hyperrule.errors import RunError
from hyperrule.support.progress import Reporter

HOSTILE = 'b<img src=x onerror="alert(1)">\x1b[31m'


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Two classes in two splits, 4 + 2 different images each."""
    for seed in range(12):
        label, place = divmod(seed, 6)
        folder = tmp_path / "data" / ("train" if place < 4 else "test") / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        scene(seed).resize((120, 80)).save(folder / f"{place}.png")
    return tmp_path / "data"


def resaved(image: Path, target: Path) -> None:
    Image.open(image).resize((90, 60)).save(target, quality=75)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_clean_data(clean: Path) -> None:
    found = hyperrule.api.check(clean, quiet=True)
    assert not found.must_be_mended
    assert not found.exclusions
    assert found.splits == {"train": (4, 4), "test": (2, 2)}
    assert (found.images, found.drawn, found.refusal) == (12, False, None)
    assert found.rule is not None
    assert (found.rule.regime, found.rule.examples, found.rule.resize) == ("small", 8, 512)
    result = run(clean)
    assert result.exit_code == 0
    assert "nothing is wrong" in result.stdout


def test_exact_duplicates_of_every_kind(clean: Path) -> None:
    shutil.copy(clean / "train/a/0.png", clean / "train/a/again.png")
    shutil.copy(clean / "train/a/1.png", clean / "train/b/conflict.png")
    shutil.copy(clean / "test/a/4.png", clean / "train/a/leak.png")
    found = hyperrule.api.check(clean, quiet=True)
    assert [alike.images for alike in (found.exact.within_class, found.exact.across_splits)] == [1, 1]
    assert [[member.id for member in group] for group in found.exact.across_classes.groups] == [
        ["train/a/1.png", "train/b/conflict.png"]
    ]
    assert found.near.within_class.images == found.near.across_classes.images == found.near.across_splits.images == 0
    assert found.exclusions == {
        "train/a/1.png": "equal to an image of another class",
        "train/b/conflict.png": "equal to an image of another class",
        "train/a/again.png": "equal to an image before it",
        "train/a/leak.png": "equal to an image of a later split",
    }
    assert run(clean).exit_code == 1


def test_near_duplicates_of_every_kind(clean: Path) -> None:
    resaved(clean / "train/a/0.png", clean / "train/a/again.jpg")
    resaved(clean / "train/a/1.png", clean / "train/b/conflict.jpg")
    resaved(clean / "test/a/4.png", clean / "train/a/leak.jpg")
    found = hyperrule.api.check(clean, quiet=True)
    near = found.near
    assert [alike.images for alike in (near.within_class, near.across_classes, near.across_splits)] == [1, 2, 1]
    assert [member.id for member in near.across_splits.groups[0]] == ["train/a/leak.jpg", "test/a/4.png"]
    assert found.exact.within_class.images == 0
    assert found.exclusions == {"train/a/leak.jpg": "nearly equal to an image of a later split"}
    assert run(clean).exit_code == 0


def test_exclusions_leave_data_that_pass(clean: Path, tmp_path: Path) -> None:
    shutil.copy(clean / "test/a/4.png", clean / "train/a/leak.png")
    resaved(clean / "test/a/5.png", clean / "train/a/near leak.jpg")
    (clean / "train/a/empty.png").touch()
    out = tmp_path / "out.csv"
    assert run(clean, "--write-exclusions", out).exit_code == 1
    with out.open(newline="") as stream:
        rows = {row["id"]: row["reason"] for row in csv.DictReader(stream)}
    assert rows.keys() == {"train/a/leak.png", "train/a/near leak.jpg", "train/a/empty.png"}
    assert "empty file" in rows["train/a/empty.png"]
    again = hyperrule.api.check(clean, exclude=str(out), quiet=True)
    assert not again.must_be_mended
    assert again.near.across_splits.images == 0
    assert again.exclusions.keys() == rows.keys()
    assert hyperrule.plan(dataset=str(clean), exclude=str(out)).dataset.splits["train"].examples == 8


def test_drawn_splits_have_no_leaks(clean: Path) -> None:
    """What hyperrule holds out keeps equal images together; near ones are told of, and stay."""
    resaved(clean / "train/a/0.png", clean / "train/a/again.jpg")
    found = hyperrule.api.check(clean / "train", quiet=True)
    assert found.drawn
    assert found.near.within_class.images == 1
    assert found.near.across_splits.images == 0
    assert not found.exclusions
    assert found.near.within_class.groups[0][0].split is None


def test_odd_files(clean: Path) -> None:
    folder = clean / "train" / "a"
    image = scene(50).resize((120, 80))
    image.save(folder / "lie.jpg", "PNG")
    image.rotate(90).save(folder / "moving.gif", save_all=True, append_images=[scene(51)])
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(52).save(folder / "turned.jpg", exif=exif)
    Image.new("RGBA", (2_000, 4), (255, 0, 0, 99)).save(folder / "long.png")
    scene(53).convert("CMYK").save(folder / "cmyk.jpg")
    found = hyperrule.api.check(clean, quiet=True)
    assert [(lie.id, lie.extension, lie.format) for lie in found.lies] == [("train/a/lie.jpg", ".jpg", "PNG")]
    assert (found.animated, found.turned) == (("train/a/moving.gif",), ("train/a/turned.jpg",))
    assert found.orientations == {1: 16, 6: 1}
    assert found.formats == {"GIF": {"P": 1}, "JPEG": {"CMYK": 1, "RGB": 1}, "PNG": {"RGB": 13, "RGBA": 1}}
    assert found.transparent == 1
    assert found.sizes is not None
    assert list(found.sizes.elongated) == ["train/a/long.png"]
    assert (found.sizes.largest.height, found.sizes.largest.width) == (300, 200)
    assert sum(size.images for size in found.sizes.histogram) == found.images == 17
    assert any("1 image of one plain colour" in line for line in found.not_compared)


def test_classes_missing_and_rare(clean: Path) -> None:
    shutil.rmtree(clean / "test" / "b")
    for seed in range(100, 140):
        scene(seed).resize((60, 40)).save(clean / "train" / "a" / f"{seed}.png")
    found = hyperrule.api.check(clean, quiet=True)
    assert found.missing == {"test": ("b",)}
    assert found.imbalance is not None
    assert (found.imbalance.largest, found.imbalance.most, found.imbalance.least) == ("a", 44, 4)


def test_data_that_finetune_would_refuse(clean: Path) -> None:
    for image in (clean / "train" / "b").iterdir():
        image.write_text("no image")
    result = run(clean, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert "too few images" in found["refusal"]
    assert len(found["problems"]) == 4


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.jpg").write_text("no image")
    result = run(tmp_path / "data", "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "2 files cannot be read" in result.stdout
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("flag", "target", "message"),
    [
        ("--html", "nowhere/page.html", "there is no folder"),
        ("--write-exclusions", "nowhere/out.csv", "there is no folder"),
        ("--html", ".", "it is a folder"),
    ],
)
def test_where_nothing_can_be_written(flag: str, target: str, message: str, tmp_path: Path) -> None:
    """Said before the data are looked at, which here are not there."""
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(tmp_path / "no data"), flag, str(tmp_path / target)])
    assert stopped.value.code == 2
    result = run(tmp_path / "no data", flag, tmp_path / target)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_leaves_the_old_one(clean: Path, tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    found = hyperrule.api.check(clean, quiet=True)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(RunError, match="cannot write"):
        found.write_page(page)
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


class Tags(HTMLParser):
    """Every tag of a page, and where its images and links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_names_of_strangers_are_text(clean: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (clean / split / "b").rename(clean / split / HOSTILE.replace("/", ""))
    bad = clean / "train" / HOSTILE
    (bad / "<script>.jpg").write_text("no image")
    (bad / "line\nbreak.jpg").write_text("no image")
    shutil.copy(bad / "0.png", bad / "<b>again.png")
    result = run(clean, "--html", tmp_path / "page.html")
    assert "\x1b" not in result.stdout
    assert "\\x1b[31m" in result.stdout
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Tags(page)
    assert not parsed.tags & {"script", "b"}
    assert "onerror" not in parsed.attributes
    assert "\x1b" not in page
    assert "&lt;script&gt;.jpg" in page
    assert json.loads(run(clean, "--json").stdout)["class_names"] == ["a", HOSTILE]


def test_the_page_is_self_contained(clean: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (60, 40), (255, 0, 0, 0)).save(clean / "train" / "a" / "clear.png")
    Image.fromarray(np.full((40, 60), 40_000, np.uint16)).save(clean / "train" / "a" / "sixteen.png")
    run(clean, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    sources = Tags(page).sources
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page


def test_huge_images_have_a_picture(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hyperrule.check(clean, quiet=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    found.write_page(tmp_path / "page.html")
    assert Tags((tmp_path / "page.html").read_text(encoding="utf-8")).sources


def test_json_alone_is_on_stdout(clean: Path) -> None:
    """In a process of its own, where progress goes to stderr and TensorFlow must not be imported."""
    code = "import sys; from hyperrule.cli import main\ntry: main()\nfinally: assert 'tensorflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "check", str(clean), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 12


def test_near_pairs_are_those_of_comparing_all() -> None:
    rng = np.random.default_rng(0)
    facts = np.zeros(600, FACTS)
    facts["luma"] = rng.integers(0, 256, (600, 16, 16))
    facts["hash"] = rng.integers(0, 1 << 63, 600, dtype=np.uint64)
    for copy in range(300, 600):  # of the image 300 before, with 0 to 12 bits and some pixels changed
        bits = rng.choice(64, int(rng.integers(13)), replace=False)
        facts["hash"][copy] = facts["hash"][copy - 300] ^ np.uint64(sum(1 << int(bit) for bit in bits))
        facts["luma"][copy] = facts["luma"][copy - 300]
    apart = np.bitwise_count(facts["hash"][:300] ^ facts["hash"][300:])
    expected = [[first, first + 300] for first in np.flatnonzero(apart <= 8)]
    found = near_pairs(facts, np.arange(600), Reporter(quiet=True))
    assert 100 < len(expected) < 300
    assert found.pairs.tolist() == expected
    assert not len(found.crowded)


def test_crowds_do_not_take_for_ever() -> None:
    """All alike: everybody is compared with some, and it is said that not with all."""
    facts = np.zeros(4 * WINDOW, FACTS)
    facts["luma"] = np.arange(256).reshape(16, 16)
    found = near_pairs(facts, np.arange(len(facts)), Reporter(quiet=True))
    assert len(found.pairs) <= len(facts) * WINDOW
    assert set(found.pairs.ravel().tolist()) == set(range(len(facts)))
    assert len(found.crowded)


def test_flat_images_are_not_all_alike() -> None:
    facts = np.zeros(5, FACTS)
    facts["luma"] = np.full((5, 16, 16), 200)
    found = near_pairs(facts, np.arange(5), Reporter(quiet=True))
    assert len(found.pairs) == 0
    assert found.flat.tolist() == [0, 1, 2, 3, 4]
