"""Every mistake of a user: one line on stderr, nothing on stdout, exit code 2, nothing written."""

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hyperrule import api
from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import HEAD, read_arrays
from hyperrule.cli import main
from hyperrule.errors import BackboneError, HyperruleError, RecipeError, RunError
from hyperrule.planning.training_plan import FORMAT
from hyperrule.run_folder import RunFolder, latest_checkpoint, reserved, save_checkpoint

Refused = Callable[..., str]
Layout = dict[str, int | bytes]  # folder -> number of images in it, file -> its bytes

# Unless a case says otherwise, mistakes of `finetune` are looked for before the data set is: a request that
# should have been refused earlier then fails on it at once, with other words.
NO_DATA = ("--dataset", "no-such-data")
ROOT_KERNEL = "resnet/root_block/standardized_conv2d/kernel"
GAMMA = "resnet/group_norm/gamma"
BETA = "resnet/block2/unit01/a/group_norm/beta"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any import of TensorFlow, or of the module that brings it in, fails; even if another test did it before."""
    for module in ("tensorflow", "keras", "hyperrule.jobs.finetune"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture
def refused(tmp_path: Path, no_tensorflow: None) -> Refused:
    """Runs a command line that must be refused before TensorFlow is imported; returns the message."""

    def run(*arguments: str) -> str:
        before = tree(tmp_path)
        result = hyperrule(*arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError("an exception reached the user") from result.exception
        assert tree(tmp_path) == before
        return the_line(result.exit_code, result.stdout, result.stderr)

    return run


def hyperrule(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="hyperrule")


def the_line(exit_code: int, stdout: str, stderr: str) -> str:
    """The message of a refused request, which is all that is printed."""
    assert stdout == ""
    assert exit_code == 2
    assert stderr.startswith("hyperrule: ")
    assert stderr.endswith("\n")
    assert len(stderr.splitlines()) == 1
    assert "Traceback" not in stderr
    return stderr.removeprefix("hyperrule: ").strip()


def assert_says(line: str, words: Iterable[str]) -> None:
    missing = [word for word in words if word not in line]
    assert not missing, f"{missing} not in: {line}"


def tree(folder: Path) -> list[tuple[str, int]]:
    """Every file and folder below, with its size."""
    return sorted((str(path), path.stat().st_size if path.is_file() else -1) for path in folder.rglob("*"))


def encoded_image(index: int = 0) -> bytes:
    """A 16 x 16 JPEG of noise."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def truncated_image() -> bytes:
    """A JPEG with all of its header and a few bytes of its body."""
    image = encoded_image()
    return image[: image.index(b"\xff\xda") + 24]


def make_data(layout: Layout, root: Path = Path("data")) -> str:
    root.mkdir(exist_ok=True)
    for name, content in layout.items():
        path = root / name
        if isinstance(content, bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            path.mkdir(parents=True, exist_ok=True)
            for index in range(content):
                (path / f"{index:02d}.jpg").write_bytes(encoded_image(index))
    return str(root)


def make_backbone(**changes: tuple[int, ...] | None) -> Path:
    """R26x0.5 of zeros, with the given arrays left out (None), added or of another shape."""
    shapes = {**Architecture(26, 0.5).array_shapes, **changes}
    path = Path("backbone.npz")
    np.savez_compressed(path, **{name: np.zeros(shape, np.int8) for name, shape in shapes.items() if shape is not None})
    return path


def make_run(*options: str) -> Path:
    """A run folder that holds the plan of a small data set."""
    make_data({"a": 4, "b": 4})
    planned = hyperrule("plan", "--dataset", "data", "--json", *options)
    assert planned.exit_code == 0, planned.stderr
    run = Path("run")
    run.mkdir()
    (run / "plan.json").write_text(planned.stdout, encoding="utf-8")
    return run


def first_member(archive: bytes) -> int:
    """Where the content of the first file in a zip archive begins."""
    name, extra = archive[26:28], archive[28:30]
    return 30 + int.from_bytes(name, "little") + int.from_bytes(extra, "little")


def overwritten(whole: bytes, start: int, patch: bytes) -> bytes:
    return whole[:start] + patch + whole[start + len(patch) :]


def npz_of_bytes(content: bytes) -> bytes:
    """A whole zip archive, with something else where the root kernel should be."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{ROOT_KERNEL}.npy", content)
    return stream.getvalue()


# The data set


@pytest.mark.parametrize("command", ["plan", "finetune"])
@pytest.mark.parametrize(
    ("layout", "words"),
    [
        pytest.param({}, ["holds no class folder with images", "an empty folder"], id="no class"),
        pytest.param(
            {"00.jpg": encoded_image(), "notes.txt": b"hi"},
            ["holds no class folder with images", "Received", "00.jpg"],
            id="images without class folders",
        ),
        pytest.param({"cats": 3}, ["one class only", "cats", "at least 2"], id="one class"),
        pytest.param(
            {"images/cats": 3, "images/dogs": 3},
            ["one class only", "at least 2", "Did you mean data/images?"],
            id="classes one level deeper",
        ),
        pytest.param({"cats": 3, "dogs": 1}, ["too few", "'dogs' (1)", "at least 2", "held out"], id="one image"),
        pytest.param({"cats": 3, "dogs": 0}, ["too few", "'dogs' (0)", "at least 2"], id="empty class"),
        pytest.param(
            {"train/cats": 2, "train/dogs": 0, "test/cats": 1},
            ["too few", "train", "'dogs' (0)", "at least 1"],
            id="empty class in train",
        ),
        pytest.param(
            {"train/cats": 2, "train/dogs": 2, "test/cats": 0}, ["too few", "test", "at least 1"], id="empty test"
        ),
        pytest.param(
            {"train/cats": 2, "train/dogs": 2, "test/cats": 1, "test/eels": 1},
            ["too few images in train", "'eels' (0)", "at least 1"],
            id="class of test that train lacks",
        ),
        pytest.param(
            {"test/cats": 2, "test/dogs": 2},
            ["no training split", "folder test", "--train-split"],
            id="test without train",
        ),
        pytest.param(
            {"train/cats": 2, "train/dogs": 2, "val/cats": 1, "validation/cats": 1},
            ["two names", "val and validation", "--validation-split validation"],
            id="two validation folders",
        ),
        pytest.param(
            {"cats": 3, "dogs": 3, "cats/bad.jpg": b"no image"},
            ["1 of 7 files", "cats/bad.jpg", "not JPEG", "--skip-corrupt"],
            id="text named .jpg",
        ),
        pytest.param(
            {"train/cats": 2, "train/dogs": 2, "test/dogs": 1, "train/cats/bad.jpg": b"no image"},
            ["1 of 6 files", "train/cats/bad.jpg", "not JPEG", "--skip-corrupt"],
            id="text named .jpg in train",
        ),
        pytest.param(
            {"train/cats": 2, "train/dogs": 2, "test/dogs": 1, "test/dogs/bad.jpg": b"no image"},
            ["1 of 6 files", "test/dogs/bad.jpg", "not JPEG", "--skip-corrupt"],
            id="text named .jpg in test",
        ),
        pytest.param(
            {"cats": 3, "dogs": 3, "dogs/bad.png": b""},
            ["dogs/bad.png", "empty file", "--skip-corrupt"],
            id="zero-byte file",
        ),
        pytest.param(
            {"cats": 3, "dogs": 3, **{f"cats/bad{number}.jpg": b"no image" for number in range(8)}},
            ["8 of 14 files", "cats/bad0.jpg", "cats/bad4.jpg", "3 more"],
            id="many bad files",
        ),
        pytest.param(
            {"cats": 3, "dogs": 3, "cats/bad\nname.jpg": b"no image"}, ["1 of 7 files"], id="line break in a name"
        ),
    ],
)
def test_data_that_cannot_be_used(refused: Refused, command: str, layout: Layout, words: list[str]) -> None:
    assert_says(refused(command, "--dataset", make_data(layout)), words)


@pytest.mark.parametrize("command", ["plan", "finetune"])
@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("no-such-data", ["no-such-data", "does not exist", "'digits'"]),
        ("a-file", ["a-file", "neither a folder", "'digits'"]),
        ("a-file/data", ["a-file/data", "does not exist"]),
        ("~no-such-user/data", ["~no-such-user"]),
        ("pipe.csv", ["pipe.csv", "neither a folder"]),
        ("folder.csv", ["folder.csv", "no class folder"]),
    ],
)
def test_data_set_that_is_no_folder(refused: Refused, command: str, dataset: str, words: list[str]) -> None:
    Path("a-file").write_text("")
    os.mkfifo("pipe.csv")
    Path("folder.csv").mkdir()
    assert_says(refused(command, "--dataset", dataset), words)


@pytest.mark.parametrize(
    ("dataset", "option", "words"),
    [
        ("data", "--data-dir", ["image folder", "VTAB-1k", "Hugging Face"]),
        ("data", "--image-key", ["image folder", "neither columns nor features"]),
        ("digits", "--label-key", ["digits", "neither columns nor features"]),
        ("digits", "--train-split", ["digits", "no splits"]),
    ],
)
def test_options_that_the_data_set_would_pass_over(
    refused: Refused, dataset: str, option: str, words: list[str]
) -> None:
    make_data({"cats": 3, "dogs": 3})
    assert_says(refused("plan", "--dataset", dataset, option, "x"), [option, *words, "Leave it out"])


@pytest.mark.parametrize("command", ["plan", "finetune"])
def test_names_do_not_steer_the_terminal(refused: Refused, command: str) -> None:
    data = make_data({"cats": 3, "dogs": 3, "cats/\x1b]0;title\x07.jpg": b"no image"})
    assert_says(refused(command, "--dataset", data), [r"cats/\x1b]0;title\x07.jpg"])


def test_file_name_that_is_not_utf8_is_escaped_where_it_is_shown() -> None:
    """JSON, and so plan.json, has no way to hold such a name."""
    data = make_data({"cats": 3, "dogs": 3})
    Path(os.fsdecode(b"data/cats/caf\xe9.jpg")).write_bytes(b"no image")
    result = hyperrule("plan", "--dataset", data, "--skip-corrupt", "--json")
    assert list(json.loads(result.stdout)["dataset"]["skipped"]) == ["cats/caf\\xe9.jpg"]


def test_a_class_that_is_too_small_without_its_bad_file(refused: Refused) -> None:
    data = make_data({"cats": 3, "dogs": 1, "dogs/bad.jpg": b"no image"})
    assert_says(refused("plan", "--dataset", data, "--skip-corrupt"), ["too few", "'dogs' (1)"])


def test_more_examples_per_class_than_a_class_has(refused: Refused) -> None:
    data = make_data({"train/cats": 6, "train/dogs": 2, "train/eels": 3, "test/cats": 1})
    line = refused("finetune", "--dataset", data, "--examples-per-class", "4")
    assert_says(line, ["--examples-per-class 4", "'dogs' (2)", "'eels' (3)", "at most 2"])
    assert "cats" not in line


@pytest.mark.usefixtures("no_tensorflow")
@pytest.mark.parametrize(
    ("content", "reason"), [(b"no image", "not JPEG"), (b"", "empty"), (truncated_image(), "truncated")]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_skip_corrupt_leaves_out_bad_files_and_lists_them(split: str, content: bytes, reason: str) -> None:
    bad = f"{split}/cats/bad.jpg"
    data = make_data({"train/cats": 3, "train/dogs": 3, "test/cats": 2, "test/dogs": 2, bad: content})
    result = hyperrule("plan", "--dataset", data, "--skip-corrupt", "--json")
    assert result.exit_code == 0, result.stderr
    dataset = json.loads(result.stdout)["dataset"]
    assert list(dataset["skipped"]) == [bad]
    assert reason in dataset["skipped"][bad]
    assert {split: info["per_class"] for split, info in dataset["splits"].items()} == {"train": [3, 3], "test": [2, 2]}


def test_finetune_refuses_a_truncated_image_before_anything_is_written(tmp_path: Path) -> None:
    data = make_data({"cats": 3, "dogs": 3, "dogs/cut.jpg": truncated_image()})
    before = tree(tmp_path)
    small = ["--resize", "32", "--crop", "32", "--batch", "2", "--steps", "1"]
    process = python_m_hyperrule("finetune", "--dataset", data, *small)
    # Where it takes longer than a second, progress comes before.
    line = the_line(process.returncode, process.stdout, process.stderr.splitlines(keepends=True)[-1])
    assert_says(line, ["dogs/cut.jpg", "cannot be decoded", "--skip-corrupt"])
    assert tree(tmp_path) == before


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    process = python_m_hyperrule("finetune", *NO_DATA)
    assert_says(the_line(process.returncode, process.stdout, process.stderr), ["no-such-data", "does not exist"])
    assert tree(tmp_path) == []


def python_m_hyperrule(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "hyperrule", *arguments], capture_output=True, text=True, check=False, env=environment
    )


# Python around it


@pytest.mark.parametrize(
    ("backend", "variable", "words"),
    [
        ("jax", "tensorflow", ["ImportError: hyperrule runs on TensorFlow, and Keras is imported already, on jax"]),
        ("tensorflow", "tensorflow", []),
        (None, "torch", ["UserWarning: hyperrule sets KERAS_BACKEND=torch to tensorflow"]),
        (None, None, []),
    ],
)
def test_keras_on_another_backend(backend: str | None, variable: str | None, words: list[str]) -> None:
    code = (
        "import sys, types\n"
        f"keras = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: {backend!r}))\n"
        f"if {backend!r}: sys.modules['keras'] = keras\n"
        "import hyperrule, os; print(os.environ['KERAS_BACKEND'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment |= {"KERAS_BACKEND": variable} if variable else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if backend == "jax" else 0)
    assert done.stdout == ("" if backend == "jax" else "tensorflow\n")
    assert bool(done.stderr) == bool(words)
    assert_says(done.stderr, words)


# The backbone


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("bit-r26x05", ["unknown backbone 'bit-r26x05'", "Did you mean 'bit-r26x0.5'?"]),
        ("random-51x1", ["unknown backbone 'random-51x1'", "Allowed", "'hyperrule backbones'", ".npz"]),
        ("efficientnet-lite", ["unknown backbone 'efficientnet-lite'", "Did you mean 'efficientnet-lite0'?"]),
        ("m-r50x1", ["unknown backbone 'm-r50x1'", "Did you mean 'bit-m-r50x1'?"]),
        ("bit-l-r50x1", ["bit-l-r50x1 was never released", "--backbone BIT-L-R50X1.npz"]),
        ("random-r34x1", ["random-r34x1", "depth", "50", "Received: 34"]),
        ("random-r50x0.3", ["random-r50x0.3", "width", "multiple of 0.5", "Received: 0.3"]),
        ("no-such.npz", ["no-such.npz", "does not exist"]),
        ("~no-such-user/bit.npz", ["~no-such-user/bit.npz"]),
        ("data", ["data is neither a SavedModel folder nor a run folder", "Allowed"]),
    ],
)
def test_unknown_backbone(refused: Refused, backbone: str, words: list[str]) -> None:
    data = make_data({"a": 2, "b": 2})
    assert_says(refused("finetune", "--dataset", data, "--backbone", backbone), words)


@pytest.mark.parametrize(
    ("backbone", "wrong", "right"),
    [
        ("bit-r26x0.5", "0,1", "[-1, 1]"),
        ("bit-m-r50x1", "0,255", "[-1, 1]"),
        ("google/bit/m-r50x1", "-1,1", "[0, 1]"),
        ("sayakpaul/bit_r152x2_224_feature_extraction", "0,1", "[-1, 1]"),
    ],
)
def test_wrong_input_range_is_stopped_before_anything_is_downloaded(
    refused: Refused, backbone: str, wrong: str, right: str
) -> None:
    data = make_data({"a": 2, "b": 2})
    line = refused("plan", "--dataset", data, "--backbone", backbone, "--input-range", wrong)
    assert_says(line, [backbone, f"takes images in {right}", f"Received: --input-range {wrong}", "Leave it out"])


@pytest.mark.parametrize("value", ["0,2", "0", "1,0", "-1,1,foo", "zero", "."])
def test_input_range_that_is_none(refused: Refused, value: str) -> None:
    line = refused("finetune", *NO_DATA, "--input-range", value)
    assert_says(line, ["input_range: must be 0,1 or -1,1 or 0,255", f"Received: {value!r}"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({GAMMA: None}, ["R26x0.5", f"1 missing: {GAMMA}"], id="missing"),
        pytest.param({"resnet/extra": (2,)}, ["R26x0.5", "1 unexpected: resnet/extra"], id="unexpected"),
        pytest.param(
            {GAMMA: (7,)}, ["R26x0.5", f"1 misshaped: {GAMMA}", "expected (1024,)", "received (7,)"], id="misshaped"
        ),
        pytest.param(
            {GAMMA: None, "resnet/extra": (2,), BETA: (3, 3)},
            [f"1 missing: {GAMMA}", "1 unexpected: resnet/extra", f"1 misshaped: {BETA}", "received (3, 3)"],
            id="all three",
        ),
        pytest.param({ROOT_KERNEL: None}, [ROOT_KERNEL, "Received", "resnet/"], id="no root kernel"),
        pytest.param(
            {ROOT_KERNEL: (7, 7, 3, 64)}, ["R26x1", "misshaped", "more", "expected", "received"], id="other width"
        ),
        pytest.param(
            {f"resnet/block3/unit{unit:02d}/a/group_norm/gamma": (512,) for unit in range(3, 9)},
            ["6 unexpected", "resnet/block3/unit03", "1 more"],
            id="many unexpected",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    refused: Refused, changes: dict[str, tuple[int, ...] | None], words: list[str]
) -> None:
    backbone = make_backbone(**changes)
    line = refused("finetune", "--dataset", make_data({"a": 2, "b": 2}), "--backbone", str(backbone))
    assert_says(line, ["backbone.npz is not a BiT checkpoint", *words])


def test_arrays_of_another_network(refused: Refused) -> None:
    np.savez("vgg.npz", **{"conv1_1/kernel": np.zeros((3, 3, 3, 64)), "conv1_1/bias": np.zeros(64)})
    line = refused("plan", "--dataset", make_data({"a": 2, "b": 2}), "--backbone", "vgg.npz")
    assert_says(line, ["vgg.npz is not a BiT checkpoint", "2 arrays", ROOT_KERNEL, "conv1_1/kernel"])


@pytest.mark.usefixtures("no_tensorflow")
def test_a_whole_backbone_file_is_accepted() -> None:
    """Without which the refusals above would prove nothing; its head may have any number of classes."""
    backbone = make_backbone(**{f"{HEAD}kernel": (1, 1, 1024, 5), f"{HEAD}bias": (5,)})
    result = hyperrule("plan", "--dataset", make_data({"a": 2, "b": 2}), "--backbone", str(backbone), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["backbone"]["architecture"] == "R26x0.5"


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(lambda whole: whole[: len(whole) // 2], id="truncated"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"<html>Not found</html>", id="another file"),
        pytest.param(lambda whole: overwritten(whole, first_member(whole), b"\xff" * 60), id="invalid compression"),
        pytest.param(lambda whole: overwritten(whole, first_member(whole) + 2, b"\xff" * 60), id="wrong bytes"),
        pytest.param(lambda whole: overwritten(whole, whole.index(b"PK\x01\x02") + 6, b"\xf0"), id="zip version"),
        pytest.param(lambda whole: npz_of_bytes(b"\x93NUMPY\x01\x00\x12\x00{'descr': '<f4', (\n"), id="array header"),
        pytest.param(lambda whole: npz_of_bytes(b"no array"), id="no arrays in it"),
    ],
)
def test_damaged_backbone_file(refused: Refused, damaged: Callable[[bytes], bytes]) -> None:
    backbone = make_backbone()
    backbone.write_bytes(damaged(backbone.read_bytes()))
    line = refused("finetune", "--dataset", make_data({"a": 2, "b": 2}), "--backbone", str(backbone))
    assert_says(line, ["backbone.npz", "cannot be read", "Fetch or copy the file again"])


@pytest.mark.parametrize("patch", [b"\xff" * 60, bytes(60)], ids=["invalid compression", "wrong bytes"])
@pytest.mark.parametrize("shift", [0, 5_000], ids=["at the start", "in the middle"])
def test_damaged_array_is_found_when_arrays_are_read(patch: bytes, shift: int) -> None:
    path = Path("backbone.npz")
    np.savez_compressed(path, noise=np.random.default_rng(0).standard_normal(10_000))
    whole = path.read_bytes()
    path.write_bytes(overwritten(whole, first_member(whole) + shift, patch))
    with pytest.raises(BackboneError, match=r"backbone\.npz cannot be read"):
        read_arrays(path)


def test_arrays_that_are_not_numbers_are_refused_by_plan_too(refused: Refused) -> None:
    backbone = make_backbone()
    with np.load(backbone) as archive:
        arrays = {**archive, GAMMA: np.full(1024, "one")}
    np.savez_compressed(backbone, **arrays)
    line = refused("plan", "--dataset", make_data({"a": 2, "b": 2}), "--backbone", str(backbone))
    assert_says(line, ["backbone.npz", GAMMA])


class Bomb:
    """Leaves a file behind if it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("exploded", "w")


def test_pickled_objects_are_refused_and_not_executed(refused: Refused) -> None:
    backbone = make_backbone()
    with np.load(backbone) as archive:
        arrays = dict(archive)
    arrays[GAMMA] = np.array([Bomb()], object)
    np.savez(backbone, allow_pickle=True, **arrays)
    for command in ("plan", "finetune"):
        line = refused(command, "--dataset", make_data({"a": 2, "b": 2}), "--backbone", str(backbone))
        assert_says(line, ["backbone.npz", "pickled", GAMMA, "numpy.savez"])
    with pytest.raises(BackboneError):
        read_arrays(backbone)
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb())).close()
    assert Path("exploded").exists()  # the bomb is live


# Options and recipes


@pytest.mark.parametrize("command", ["plan", "finetune"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "-8"], ["batch", "greater than 0", "'-8'"]),
        (["--batch", "0"], ["batch", "greater than 0", "'0'"]),
        (["--batch", "many"], ["batch", "integer", "'many'"]),
        (["--batch", "1.5"], ["batch", "integer", "'1.5'"]),
        (["--base-lr", "nan"], ["base_lr", "finite", "'nan'"]),
        (["--rule", "codes"], ["rule", "'code'", "'paper'", "'codes'"]),
        (["--steps", "10", "--epochs", "2"], ["one of", "steps and epochs"]),
        (["--steps", "10", "--budget", "5m"], ["one of", "steps and budget"]),
        (["--resize", "64", "--crop", "128"], ["resize", "at least crop", "64", "128"]),
        (["--budget", "5"], ["budget", "5m", "1.5h", "'5'"]),
        (["--budget", "five minutes"], ["budget", "5m", "'five minutes'"]),
        (["--budget", "-5m"], ["budget", "5m", "'-5m'"]),
        (["--budget", "0s"], ["budget", "greater than 0"]),
        (["--set", "base_lr"], ["key=value", "Received: 'base_lr'"]),
        (["--set", "=3"], ["key=value", "Received: '=3'"]),
        (["--set", "stepps=3"], ["unknown option 'stepps'", "Did you mean 'steps'?"]),
        (["--set", "batch=[1"], ["batch", "integer", "'[1'"]),
        (["--set", "batch=2024-99-99"], ["batch", "integer", "2024-99-99"]),
        (["--batch", "0", "--rule", "x", "--set", "stepps=3"], ["batch", "'0'", "rule", "'x'", "'stepps'", "'steps'"]),
        (["--bach", "8"], ["--bach", "--batch"]),
        (["--batch"], ["--batch", "argument"]),
        (["surplus"], ["surplus"]),
    ],
    ids=" ".join,
)
def test_option_out_of_range(refused: Refused, command: str, options: list[str], words: list[str]) -> None:
    assert_says(refused(command, *NO_DATA, *options), words)


@pytest.mark.parametrize(
    ("question", "ignored"),
    [
        (partial(api.evaluate, "any"), "split_seed"),
        (partial(api.evaluate, "any"), "skip_corrupt"),
        (api.check, "skip_corrupt"),
        (api.check, "strict_data"),
        (api.label_errors, "steps"),
        (api.learning_curve, "seed"),
        (api.learning_curve, "stepps"),
    ],
)
def test_option_that_would_do_nothing(question: Callable[..., object], ignored: str, no_tensorflow: None) -> None:
    """Python has no flags that say which options there are."""
    with pytest.raises(RecipeError) as caught:
        question(NO_DATA[1], **{ignored: 1})
    assert_says(str(caught.value), [repr(ignored), "takes train_split, validation_split, test_split, data_dir"])


@pytest.mark.parametrize(("option", "value"), [("--epochs", "1e308"), ("--batch", "9" * 400)])
def test_number_beyond_all_bounds(refused: Refused, option: str, value: str) -> None:
    assert_says(refused("plan", "--dataset", make_data({"a": 2, "b": 2}), option, value), [option.lstrip("-")])


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--dataset"],
        ["plan", "--dataset", "digits", "--backbone"],
        ["plan", "--recipe"],
        ["finetune", *NO_DATA, "--out"],
        ["finetune", "--resume"],
    ],
    ids=" ".join,
)
def test_path_that_is_too_long(refused: Refused, arguments: list[str]) -> None:
    assert_says(refused(*arguments, "x" * 5_000), ["xxx"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["finetun"], ["'finetun'", "finetune"]),
        (["frobnicate", *NO_DATA], ["'frobnicate'", "finetune"]),
        (["--verison"], ["--verison", "--version"]),
        (["recipes", "--jsn"], ["--jsn", "--json"]),
        (["plan"], ["'dataset'", "missing", "--dataset"]),
        (["finetune"], ["'dataset'", "missing", "--dataset"]),
    ],
    ids=" ".join,
)
def test_command_line_that_makes_no_sense(refused: Refused, arguments: list[str], words: list[str]) -> None:
    assert_says(refused(*arguments), words)


@pytest.mark.parametrize("command", ["plan", "finetune"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(b"dataset: [a, b", ["recipe.yaml", "not YAML"], id="not YAML"),
        pytest.param(b"dataset: a\n\tbatch: 3\n", ["recipe.yaml", "not YAML", "line 2"], id="tabs"),
        pytest.param(b"dataset: \xff\xfe", ["recipe.yaml", "not YAML"], id="not UTF-8"),
        pytest.param(b"dataset: !!python/name:os.system\n", ["recipe.yaml", "not YAML"], id="Python object"),
        pytest.param(b"dataset: 2024-99-99", ["recipe.yaml", "not YAML"], id="impossible date"),
        pytest.param(b"dataset: " + b"[" * 3_000, ["recipe.yaml", "not YAML"], id="3000 brackets"),
        pytest.param(b"- dataset\n- batch\n", ["recipe.yaml", "key: value", "Received: list"], id="list"),
        pytest.param(b"dataset", ["recipe.yaml", "key: value", "Received: str"], id="text"),
        pytest.param(b"", ["recipe.yaml", "key: value", "Received: NoneType"], id="empty"),
        pytest.param(b"dataset: x\nstepps: 3", ["unknown option 'stepps'", "Did you mean 'steps'?"], id="unknown key"),
        pytest.param(b"dataset: x\n3: 4", ["unknown option", "3"], id="key that is a number"),
        pytest.param(b"dataset: x\nbatch: true", ["batch", "True"], id="batch that is a truth value"),
        pytest.param(b"dataset: [x]", ["dataset", "string", "['x']"], id="list of data sets"),
        pytest.param(
            b"dataset: x\nstepps: 3\nbatch: 0\nrule: other\nmixup: -1\n",
            ["'stepps'", "'steps'", "batch", "greater than 0", "rule", "'other'", "mixup", "-1"],
            id="four mistakes",
        ),
    ],
)
def test_recipe_file_with_mistakes(refused: Refused, command: str, text: bytes, words: list[str]) -> None:
    Path("recipe.yaml").write_bytes(text)
    assert_says(refused(command, "--recipe", "recipe.yaml"), words)


@pytest.mark.parametrize("recipe", ["no-such-recipe", "no-such.yaml", "."])
def test_unknown_recipe(refused: Refused, recipe: str) -> None:
    line = refused("finetune", "--recipe", recipe)
    assert_says(line, [f"'{recipe}'", "neither a file nor a shipped recipe", "hyperrule recipes"])


# The run folder


def test_out_that_holds_another_run(refused: Refused) -> None:
    run = make_run()
    line = refused("finetune", *NO_DATA, "--out", str(run))
    assert_says(line, ["--out run", "another run", "unfinished", "--resume run"])


def test_out_that_holds_a_finished_run(refused: Refused) -> None:
    """Which cannot be resumed, so that must not be the advice."""
    run = make_run()
    (run / "model_card.md").write_text("")
    line = refused("finetune", *NO_DATA, "--out", str(run))
    assert_says(line, ["--out run", "another run", "(finished)", "another folder"])
    assert "--resume" not in line


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("full", ["--out full", "not empty", "does not exist yet"]),
        ("full/a-file", ["--out full/a-file", "is a file", "does not exist yet"]),
        ("full/a-file/run", ["--out full/a-file/run", "file"]),
    ],
)
def test_out_that_is_not_free(refused: Refused, out: str, words: list[str]) -> None:
    make_data({"a-file": b"precious"}, Path("full"))
    assert_says(refused("finetune", *NO_DATA, "--out", out), words)
    assert Path("full", "a-file").read_bytes() == b"precious"


def test_out_that_another_run_is_about_to_begin_in(refused: Refused) -> None:
    with reserved(RunFolder(Path("run"))):
        line = refused("finetune", *NO_DATA, "--out", "run")
    assert_says(line, ["run is in use: another process"])
    assert not Path("run").exists()


def test_what_was_reserved_and_not_used_goes_again() -> None:
    Path("mount").mkdir()
    before = tree(Path())
    for run, name in ((None, "tfds:photos"), (RunFolder(Path("new/run")), ""), (RunFolder(Path("mount")), "")):
        with suppress(RunError), reserved(run, name) as folder:
            held = tree(folder.path)
            raise RunError("an image cannot be decoded")
        assert [Path(path).name for path, _ in held] == [".lock"]
        assert tree(Path()) == before
    with reserved(None, "photos") as first, reserved(None, "photos") as second:
        assert [first.path, second.path] == [Path("runs/photos"), Path("runs/photos-2")]
        second.plan_file.write_text("{}")
    assert not first.path.exists()
    assert second.plan_file.exists()


def test_lock_of_a_run_that_was_killed_before_it_began_is_no_run() -> None:
    Path("run").mkdir()
    Path("run/.lock").touch()
    with reserved(RunFolder(Path("run"))):
        pass
    assert Path("run").is_dir()


def test_other_workers_reserve_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    for run in (None, RunFolder(Path("run"))):
        with reserved(run, "photos"):
            assert tree(Path()) == []


def test_forks_do_not_hold_what_their_parent_has_let_go() -> None:
    run, context = RunFolder(Path("run")), get_context("fork")
    started, end = context.Event(), context.Event()

    def wait() -> None:
        started.set()
        end.wait()

    with warnings.catch_warnings(), reserved(run):
        warnings.simplefilter("ignore", DeprecationWarning)  # forks beside the threads of other tests
        run.plan_file.write_text("{}")
        child = context.Process(target=wait)
        child.start()
    assert started.wait(60)
    try:
        with RunFolder(run.path).locked():
            assert child.is_alive()
    finally:
        end.set()
        child.join()


@pytest.mark.parametrize("run", ["no-such-run", "empty", "a-file"])
def test_resume_of_what_is_no_run(refused: Refused, run: str) -> None:
    Path("empty").mkdir()
    Path("a-file").write_text("")
    assert_says(refused("finetune", "--resume", run), [f"{run} is no run folder", "plan.json"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda text: text[: len(text) // 2], ["damaged"], id="truncated"),
        pytest.param(lambda text: "", ["damaged"], id="empty"),
        pytest.param(lambda text: "[1, 2]", ["damaged"], id="a list"),
        pytest.param(lambda text: "{}", ["damaged", "format"], id="without format"),
        pytest.param(lambda text: f'{{"format": {FORMAT}}}', ["damaged"], id="nothing but a format"),
        pytest.param(
            lambda text: text.replace(f'"format": {FORMAT}', '"format": 99'),
            ["99", f"reads {FORMAT}"],
            id="another format",
        ),
    ],
)
def test_resume_under_a_plan_that_cannot_be_read(
    refused: Refused, change: Callable[[str], str], words: list[str]
) -> None:
    run = make_run()
    (run / "plan.json").write_text(change((run / "plan.json").read_text()))
    assert_says(refused("finetune", "--resume", str(run)), ["run/plan.json", *words])


def test_resume_with_out(refused: Refused) -> None:
    line = refused("finetune", "--resume", str(make_run()), "--out", "elsewhere")
    assert_says(line, ["--resume", "--out", "not both"])


def test_resume_of_a_finished_run(refused: Refused) -> None:
    run = make_run()
    (run / "model_card.md").write_text("")
    assert_says(refused("finetune", "--resume", str(run)), ["run is finished", "run/report.html"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "64"], ["was planned differently", "batch: 512, not 64", "--out"]),
        (["--batch", "none"], ["batch", "integer", "'none'"]),
        (["--epochs", "3"], ["one of", "steps and epochs"]),
    ],
)
def test_resume_with_options_that_change_the_plan(refused: Refused, options: list[str], words: list[str]) -> None:
    assert_says(refused("finetune", "--resume", str(make_run("--steps", "3")), *options), words)


def test_resume_with_changed_data(refused: Refused) -> None:
    run = make_run()
    Path("data/a/00.jpg").write_bytes(encoded_image(99))
    assert_says(refused("finetune", "--resume", str(run)), ["was planned differently", "dataset sha256"])


def test_resume_without_its_data(refused: Refused) -> None:
    run = make_run()
    Path("data").rename("moved")
    assert_says(refused("finetune", "--resume", str(run)), ["data", "does not exist"])


# A full disk, and damaged checkpoints


def state(step: int) -> dict[str, np.ndarray]:
    return {"weights": np.full(5_000, step, np.float32), "momentum/weights": np.full(5_000, -step, np.float32)}


def assert_latest(folder: Path, step: int) -> None:
    found = latest_checkpoint(folder)
    assert found is not None
    assert found[0] == step
    assert found[1].keys() == state(step).keys()
    for name, array in state(step).items():
        np.testing.assert_array_equal(found[1][name], array)


def disk_full_part_way(path: Path, arrays: object) -> None:
    path.write_bytes(b"PK\x03\x04 the first bytes")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_disk_that_fills_up_during_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("checkpoints")
    save_checkpoint(folder, 10, state(10), "again")
    save_checkpoint(folder, 20, state(20), "again")
    before = tree(folder)
    monkeypatch.setattr("hyperrule.run_folder.write_arrays", disk_full_part_way)
    with pytest.raises(RunError, match=r"step-00000030\.npz.*disk is full.*kept") as caught:
        save_checkpoint(folder, 30, state(30), "again")
    assert caught.value.exit_code == 1
    assert tree(folder) == before
    assert_latest(folder, 20)


@pytest.fixture
def full_device() -> Path:
    device = Path("/dev/full")
    if not device.is_char_device():
        pytest.skip("no /dev/full here, the device on which every write finds the disk full")
    return device


def test_checkpoint_on_a_full_device(full_device: Path) -> None:
    folder = Path("checkpoints")
    save_checkpoint(folder, 10, state(10), "again")
    before = tree(folder)
    (folder / "step-00000020.npz.partial").symlink_to(full_device)
    with pytest.raises(RunError, match=r"step-00000020\.npz.*disk is full"):
        save_checkpoint(folder, 20, state(20), "again")
    assert tree(folder) == before
    assert_latest(folder, 10)


@pytest.mark.parametrize(
    ("written", "write"),
    [
        ("eval.json.partial", lambda run: run.write(run.eval_file, "{}\n")),
        ("metrics.jsonl", lambda run: run.append_metrics({"step": 1, "loss": 0.5})),
    ],
)
def test_run_folder_on_a_full_device(full_device: Path, written: str, write: Callable[[RunFolder], None]) -> None:
    run = RunFolder(Path("run"))
    run.path.mkdir()
    (run.path / written).symlink_to(full_device)
    with pytest.raises(HyperruleError, match="disk is full"):
        write(run)
    assert not run.eval_file.exists()


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(lambda whole: whole[:-1_000], id="truncated"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: bytes(len(whole)), id="zeros"),
        pytest.param(lambda whole: whole[:9_000] + b"\xff" * 16 + whole[9_016:], id="overwritten"),
    ],
)
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(damaged: Callable[[bytes], bytes]) -> None:
    folder = Path("checkpoints")
    save_checkpoint(folder, 10, state(10), "again")
    newest = save_checkpoint(folder, 20, state(20), "again")
    assert_latest(folder, 20)
    newest.write_bytes(damaged(newest.read_bytes()))
    assert_latest(folder, 10)


def test_counters_are_exact_and_the_last_of_all_steps_is_the_newest() -> None:
    """10^8 has a digit more than others, and float32 none of its neighbours."""
    folder, steps = Path("checkpoints"), 10**8
    for step in (steps - 2, steps - 1, steps):
        save_checkpoint(folder, step, {"adam/updates": np.array(step + 1), "weights": np.ones(3, np.float32)}, "again")
    found = latest_checkpoint(folder)
    assert found is not None
    assert (found[0], int(found[1]["adam/updates"])) == (steps, steps + 1)
    assert found[1]["weights"].dtype == np.float32
    assert sorted(path.name for path in folder.iterdir()) == ["step-100000000.npz", "step-99999999.npz"]


def test_no_checkpoint_that_can_be_read() -> None:
    folder = Path("checkpoints")
    assert latest_checkpoint(folder) is None
    save_checkpoint(folder, 10, state(10), "again").write_bytes(b"")
    assert latest_checkpoint(folder) is None


def test_the_last_two_checkpoints_are_kept() -> None:
    folder = Path("checkpoints")
    for step in (10, 20, 30):
        save_checkpoint(folder, step, state(step), "again")
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000020.npz", "step-00000030.npz"]
