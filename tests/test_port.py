"""`hyperrule port`: BiTs written as public .npz and as TF2 Hub modules, which load, train and convert back."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from conftest import golden_array
from modules import R26, SmallNet, golden_arrays

import hyperrule
from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import HEAD, read_arrays, write_arrays
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.backbones.describe import describe_backbone, module_facts
from hyperrule.backbones.saved_model import inspection
from hyperrule.backbones.saved_model.inspection import photographs
from hyperrule.cli import main
from hyperrule.errors import RunError
from hyperrule.exporting import bit_module
from hyperrule.support.progress import Reporter

CLASSES = 10


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def write_golden(path: Path, architecture: Architecture, with_head: bool = True) -> Path:
    head = {f"{HEAD}kernel": (1, 1, architecture.features, CLASSES), f"{HEAD}bias": (CLASSES,)} if with_head else {}
    arrays = golden_arrays(architecture) | {name: golden_array(name, shape) for name, shape in head.items()}
    write_arrays(path, arrays)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R26x0.5 with the golden figures' weights and head."""
    return write_golden(tmp_path_factory.mktemp("checkpoint") / "bit.npz", R26)


@pytest.fixture(scope="module")
def module(checkpoint: Path) -> Path:
    """Its features, as a SavedModel of images in [0, 1]."""
    return hyperrule.port(checkpoint, checkpoint.with_name("module"), quiet=True).path


@pytest.fixture(scope="module")
def logits_module(checkpoint: Path) -> Path:
    """Its logits, as a SavedModel of images in [-1, 1]."""
    target = checkpoint.with_name("logits")
    return hyperrule.port(checkpoint, target, input_range=(-1, 1), classifier=True, quiet=True).path


def near(received: np.ndarray, expected: np.ndarray) -> bool:
    return inspection.difference(received, expected) <= 1e-4


def assert_golden(saved_model: Path, architecture: Architecture, what: str, golden: dict[str, np.ndarray]) -> None:
    """Its outputs are the golden figures at every size; images are in [0, 1], or for logits in [-1, 1]."""
    loaded = tf.saved_model.load(str(saved_model))
    compared = 0
    for key, expected in golden.items():
        if match := re.fullmatch(rf"{re.escape(str(architecture))}/seed(\d+)/([\dx]+)/{what}", key):
            shape = tuple(map(int, match[2].split("x")))
            images = np.random.default_rng(int(match[1])).uniform(-1, 1, shape).astype(np.float32)
            received = loaded((images + 1) / 2 if what == "features" else images, False).numpy()
            assert near(received, expected), key
            compared += 1
    assert compared >= 2


def test_features_and_logits_are_golden(module: Path, logits_module: Path, golden: dict[str, np.ndarray]) -> None:
    assert_golden(module, R26, "features", golden)
    assert_golden(logits_module, R26, "logits", golden)


def test_r50x1_is_golden(tmp_path: Path, golden: dict[str, np.ndarray]) -> None:
    source = write_golden(tmp_path / "r50x1.npz", Architecture(50, 1), with_head=False)
    ported = hyperrule.port(source, tmp_path / "r50x1", quiet=True)
    assert ported.difference <= 1e-4
    assert_golden(ported.path, Architecture(50, 1), "features", golden)


def test_both_input_ranges_and_forms_agree(checkpoint: Path, module: Path, logits_module: Path) -> None:
    """The head on features of images in [0, 1] gives the logits of the same images in [-1, 1]."""
    images, arrays = photographs(64), read_arrays(checkpoint)
    features = tf.saved_model.load(str(module))(images, False).numpy()
    logits = tf.saved_model.load(str(logits_module))(2 * images - 1, False).numpy()
    assert near(features @ arrays[f"{HEAD}kernel"][0, 0] + arrays[f"{HEAD}bias"], logits)


def test_arrays_come_back_as_they_were(checkpoint: Path, module: Path, logits_module: Path, tmp_path: Path) -> None:
    arrays = read_arrays(checkpoint)
    for saved_model, head in ((module, False), (logits_module, True)):
        ported = hyperrule.port(saved_model, tmp_path / f"{saved_model.name}.npz", quiet=True)
        assert ported.classes == (CLASSES if head else None)
        back = read_arrays(ported.path)
        assert back.keys() == {name for name in arrays if head or not name.startswith(HEAD)}
        for name, array in back.items():
            np.testing.assert_array_equal(array, arrays[name])


def test_npz_to_npz_writes_float32_under_the_public_names(checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.npz"
    numbered = {
        name.replace("standardized_conv2d", f"standardized_conv2d_{index}"): array.astype(np.float64)
        for index, (name, array) in enumerate(read_arrays(checkpoint).items())
    }
    np.savez_compressed(source, **numbered)
    ported = hyperrule.port(source, tmp_path / "ported.npz", quiet=True)
    assert (ported.classes, ported.input_range, ported.difference) == (CLASSES, (-1, 1), 0)
    assert os.path.getsize(ported) == ported.size
    with np.load(ported.path) as written, np.load(checkpoint) as public:
        assert written.files == public.files
        for name in public.files:
            assert written[name].dtype == np.float32
            np.testing.assert_array_equal(written[name], public[name])


def test_is_recognised_as_native_by_its_names(module: Path, logits_module: Path) -> None:
    for saved_model, pixels in ((module, (0, 1)), (logits_module, (-1, 1))):
        info = describe_backbone(str(saved_model))
        assert str(info.network) == str(R26)
        facts = module_facts(saved_model, Reporter(quiet=True))
        assert (facts.matched_by, facts.own_range) == ("names", pixels)
        assert max(facts.differences) <= 1e-4
    loaded = tf.saved_model.load(str(logits_module))
    names = [*R26.array_shapes, f"{HEAD}kernel", f"{HEAD}bias"]
    assert [variable.name for variable in loaded.variables] == [f"{name}:0" for name in names]
    assert [variable.name for variable in loaded.trainable_variables] == [f"{name}:0" for name in names]


IN_A_FRESH_PROCESS = """
import sys
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

saved_model, images, output = sys.argv[1:]
images = tf.constant(np.load(images))
module = hub.load(saved_model)
with tf.GradientTape() as tape:
    tape.watch(images)
    features = module(images, True)
    loss = tf.reduce_mean(tf.square(features))
gradients = tape.gradient(loss, [images, *module.trainable_variables])
names = ["images", *(variable.name.removesuffix(":0") for variable in module.trainable_variables)]
assert "hyperrule" not in sys.modules
np.savez(output, features=features, **dict(zip(names, gradients)))
"""


def run_python(script: str, *arguments: Path, **environment: str) -> str:
    """What a process without hyperrule prints."""
    finished = subprocess.run(
        [sys.executable, "-P", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def test_gradients_are_the_native_networks(checkpoint: Path, module: Path, tmp_path: Path) -> None:
    """In a process that knows the SavedModel only."""
    images = photographs(64)
    np.save(tmp_path / "images.npy", images)
    run_python(IN_A_FRESH_PROCESS, module, tmp_path / "images.npy", tmp_path / "answers.npz")
    answers = np.load(tmp_path / "answers.npz")
    assert near(answers["features"], tf.saved_model.load(str(module))(images, False).numpy())

    network = ResNetV2(R26, initializer="zeros")
    arrays = read_arrays(checkpoint)
    for name, variable in network.arrays.items():
        variable.assign(arrays[name])
    variables = [variable.value for variable in network.arrays.values()]
    given = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_mean(tf.square(network(2 * given - 1, training=True)))
    gradients = tape.gradient(loss, [given, *variables])
    for name, gradient in zip(["images", *network.arrays], gradients, strict=True):
        assert inspection.difference(answers[name], gradient.numpy()) <= 1e-3, name


IN_TF_KERAS = """
import sys
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

saved_model, images, output = sys.argv[1:]
images = np.load(images)
layer = hub.KerasLayer(saved_model, trainable=True)
features = layer(images).numpy()
model = tf.keras.Sequential([tf.keras.layers.InputLayer([64, 64, 3]), layer, tf.keras.layers.Dense(2)])
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(tf.keras.optimizers.SGD(0.003, momentum=0.9), loss)
before = [weight.numpy() for weight in layer.trainable_weights]
losses = model.fit(images, np.arange(len(images)) % 2, batch_size=8, epochs=6, verbose=0).history["loss"]
moved = sum(np.any(old != new.numpy()) for old, new in zip(before, layer.trainable_weights))
np.savez(output, features=features, losses=losses, moved=moved)
"""


def test_trains_in_a_hub_keras_layer(module: Path, tmp_path: Path) -> None:
    if find_spec("tf_keras") is None:
        pytest.skip("hub.KerasLayer is a Keras 2 layer: tf_keras is not installed")
    images = photographs(64)
    np.save(tmp_path / "images.npy", images)
    run_python(IN_TF_KERAS, module, tmp_path / "images.npy", tmp_path / "answers.npz", TF_USE_LEGACY_KERAS="1")
    answers = np.load(tmp_path / "answers.npz")
    assert near(answers["features"], tf.saved_model.load(str(module))(images, False).numpy())
    assert answers["losses"][-1] < 0.5 * answers["losses"][0]
    assert answers["moved"] == len(R26.array_shapes)


def test_random_weights_can_be_ported(tmp_path: Path) -> None:
    first, second = (hyperrule.port("random-r26x0.5", tmp_path / f"{index}.npz", quiet=True) for index in "12")
    assert first.path.read_bytes()[200:4000] == second.path.read_bytes()[200:4000]
    assert str(describe_backbone(str(first.path)).network) == str(R26)


def port(*arguments: str | Path, code: int = 0) -> str:
    """stdout, or where the request is refused, the one line on stderr."""
    result = CliRunner().invoke(main, ["port", *map(str, arguments)], prog_name="hyperrule")
    assert result.exit_code == code, result.output
    if code == 0:
        return result.stdout
    assert result.stdout == ""
    *progress, line = result.stderr.splitlines()
    assert code == 1 or not progress, result.stderr
    return line


def test_says_what_was_written(checkpoint: Path, module: Path, tmp_path: Path) -> None:
    said = json.loads(port(checkpoint, tmp_path / "json.npz", "--json"))
    assert said["path"] == str(tmp_path / "json.npz")
    assert said["architecture"] == "R26x0.5"
    assert f"head of {CLASSES} classes" in port(checkpoint, tmp_path / "text.npz")


@pytest.fixture
def no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorflow", "keras", "hyperrule.exporting.bit_module"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_tensorflow")
def test_npz_to_npz_needs_no_tensorflow(checkpoint: Path, tmp_path: Path) -> None:
    port(checkpoint, tmp_path / "copy.npz")


@pytest.mark.usefixtures("no_tensorflow")
@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (lambda source, folder: [source, folder], ["exists", "Choose a name that is free"]),
        (lambda source, folder: [source, source], ["bit.npz exists"]),
        (lambda source, folder: [source, folder / "dangling"], ["dangling exists"]),
        (lambda source, folder: [source, folder / "a.npz", "--input-range", "0,1"], ["--input-range", "[-1, 1]"]),
        (lambda source, folder: [source, folder / "a.npz", "--classifier"], ["--classifier", "head anyway"]),
        (lambda source, folder: [source, folder / "a", "--input-range", "0,255"], ["0,255", "'0,1', '-1,1'"]),
        (lambda source, folder: ["bit-r26x0.5", folder / "a", "--classifier"], ["bit-r26x0.5 has no head"]),
        (lambda source, folder: ["random-r50x1", folder / "a", "--classifier"], ["random-r50x1 has no head"]),
        (lambda source, folder: ["bit-m-r50x", folder / "a"], ["unknown backbone", "Did you mean"]),
        (lambda source, folder: [source, folder / "none" / "a"], ["cannot write", "No such file or directory"]),
        (lambda source, folder: [source, source / "a"], ["cannot write", "Not a directory"]),
        (lambda source, folder: [source, folder / ("a" * 300)], ["cannot write", "File name too long"]),
        (lambda source, folder: [source, "/proc/a.npz"], ["cannot write /proc/a.npz"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    checkpoint: Path, tmp_path: Path, request_of: Callable[[Path, Path], Sequence[str | Path]], words: Sequence[str]
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    line = port(*request_of(checkpoint, tmp_path), code=2)
    assert all(word in line for word in words), line
    assert os.listdir(tmp_path) == ["dangling"]


def test_a_folder_that_may_not_be_written(checkpoint: Path, tmp_path: Path) -> None:
    if os.access(tmp_path, os.W_OK, effective_ids=True) and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    assert "Permission denied" in port(checkpoint, tmp_path / "a.npz", code=2)


@pytest.mark.parametrize("norm", ["fused", "none"])
def test_what_is_no_bit_is_refused(tmp_path: Path, norm: str) -> None:
    """Even if it cannot be told which pixels it takes."""
    SmallNet(norm).save(tmp_path / "net")
    for target in ("a", "a.npz"):
        line = CliRunner().invoke(main, ["port", str(tmp_path / "net"), str(tmp_path / target)])
        assert line.exit_code == 2
        assert f"only a BiT can be ported, and {tmp_path / 'net'} is not a BiT" in line.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == ["net"]


def test_a_head_that_does_not_fit(tmp_path: Path) -> None:
    source = tmp_path / "bit.npz"
    write_arrays(source, {**golden_arrays(R26), f"{HEAD}kernel": np.zeros((1024, 5), np.float32)})
    assert "a head that does not fit" in port(source, tmp_path / "a", "--classifier", code=2)


def test_a_module_that_disagrees_is_not_kept(
    checkpoint: Path, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*arguments: Any) -> dict[int, np.ndarray]:
        shutil.copytree(module, arguments[-1])
        return {64: np.ones([8, R26.features], np.float32)}

    monkeypatch.setattr(bit_module, "_save", save)
    with pytest.raises(RunError, match="disagrees with the native network"):
        hyperrule.port(checkpoint, tmp_path / "a", quiet=True)
    assert os.listdir(tmp_path) == []


def test_tensorflow_that_cannot_write_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message when the disk was full."""

    def save(*arguments: Any) -> None:
        arguments[-1].mkdir()
        where = f"{arguments[-1]}/variables/variables_temp/part-00000-of-00001.data-00000-of-00001.tempstate160"
        raise tf.errors.ResourceExhaustedError(None, None, f"{{{{function_node}}}} {where}; No space left on device")

    monkeypatch.setattr(bit_module, "_save", save)
    assert f"cannot write {tmp_path / 'a'}: No space left on device." in port(checkpoint, tmp_path / "a", code=1)
    assert os.listdir(tmp_path) == []


DISK_FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
import hyperrule
try:
    hyperrule.port(*sys.argv[1:], quiet=True)
except hyperrule.RunError as error:
    print(error)
"""


def test_a_file_that_cannot_be_written_whole_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    said = run_python(DISK_FULL, checkpoint, tmp_path / "a.npz", PYTHONPATH=str(Path(__file__).parents[1]))
    assert f"cannot write {tmp_path / 'a.npz'}" in said
    assert len(said.splitlines()) == 1
    assert os.listdir(tmp_path) == []
