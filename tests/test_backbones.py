"""Every kind of backbone keeps one contract; BiT SavedModels are recognised; wrong pixel ranges are refused."""

import logging
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from command_line import flags, run
from devices import strategy_of
from loopback import Answer, Loopback
from modules import R14, Module, SmallNet, golden_arrays, save_bit

import hyperrule
from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import HEAD, read_arrays, write_arrays
from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.info import BackboneInfo
from hyperrule.backbones.saved_model import inspection
from hyperrule.backbones.saved_model.graph_module import GraphModule
from hyperrule.backbones.saved_model.transplant import matches
from hyperrule.data.pipeline import MicroBatch
from hyperrule.errors import BackboneError, Interrupted, RecipeError
from hyperrule.run_folder import RunFolder
from hyperrule.training.classifier import Classifier, load_classifier
from hyperrule.training.step import TrainingStep

SHORT = {"batch": 8, "steps": 4, "resize": 40, "crop": 32, "precision": "float32", "quiet": True}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)


def test_a_module_is_looked_into_without_a_word_of_tensorflows_and_other_threads_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []
    logger = tf.get_logger()
    monkeypatch.setattr(logger, "handlers", [handler := logging.Handler()])
    monkeypatch.setattr(handler, "emit", lambda record: heard.append(record.getMessage()))

    def warn(*_: object) -> None:
        logger.warning("within")
        thread = threading.Thread(target=logger.warning, args=("beside",))
        thread.start()
        thread.join()
        logger.error("failure")

    monkeypatch.setattr(inspection, "_inspected", warn)
    logger.warning("before")
    inspection.inspect(tmp_path, "", tmp_path)
    logger.warning("after")
    assert heard == ["before", "beside", "failure", "after"]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One backbone of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    write_arrays(folder / "bit.npz", golden_arrays())
    save_bit(folder / "hub-bit", lambda name: name)
    SmallNet().save(folder / "as-it-is", penalty=1e-3)
    shutil.make_archive(str(folder / "archive"), "gztar", folder / "as-it-is")
    return {
        "embedded": "bit-r26x0.5",
        "random": "random-r14x0.5",
        "file": str(folder / "bit.npz"),
        "hub BiT": str(folder / "hub-bit"),
        "as it is": str(folder / "as-it-is"),
        "archive": str(folder / "archive.tar.gz"),
    }


def loaded(info: BackboneInfo, classes: int = 3) -> Classifier:
    return load_classifier(info, classes)


def test_weights_come_from_the_backbones_file_and_the_heads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = {f"{HEAD}kernel": rng.normal(size=(1, 1, 1024, 3)), f"{HEAD}bias": rng.normal(size=3)}
    head = {name: array.astype(np.float32) for name, array in head.items()}
    arrays = golden_arrays()
    write_arrays(tmp_path / "bit.npz", arrays)
    write_arrays(tmp_path / "head.npz", head)
    info, images = describe_backbone(str(tmp_path / "bit.npz")), a_batch().images
    headless = load_classifier(info, 3)
    assert not any(headless.snapshot()[name].any() for name in head)
    whole = load_classifier(info, 3, tmp_path / "head.npz")
    for name, array in {**arrays, **head}.items():
        np.testing.assert_array_equal(whole.snapshot()[name], array)
    folded = load_classifier(info, 3, str(tmp_path / "head.npz"), folded=True)
    assert all(conv.standardized for conv in folded.backbone.convolutions)
    np.testing.assert_allclose(folded(images), whole(images), rtol=1e-4, atol=1e-4)
    SmallNet().save(tmp_path / "as-it-is")
    opaque = describe_backbone(str(tmp_path / "as-it-is"))
    width = opaque.features
    of_opaque = {f"{HEAD}kernel": head[f"{HEAD}kernel"][:, :, :width], f"{HEAD}bias": head[f"{HEAD}bias"]}
    write_arrays(tmp_path / "head.npz", of_opaque)
    classifier = load_classifier(opaque, 3, tmp_path / "head.npz", folded=True)
    expected = classifier.features(images).numpy() @ of_opaque[f"{HEAD}kernel"][0, 0] + of_opaque[f"{HEAD}bias"]
    np.testing.assert_allclose(classifier(images), expected, rtol=1e-4, atol=1e-4)


def a_batch(size: int = 6) -> MicroBatch:
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 1, (size, 48, 48, 3)).astype(np.float32)
    return MicroBatch(images, np.eye(3, dtype=np.float32)[np.arange(size) % 3], np.ones(size, np.float32))


def step_of(classifier: Classifier, strategy: tf.distribute.Strategy, batch: MicroBatch, rate: float) -> float:
    with strategy.scope():
        step = TrainingStep(classifier, strategy, len(batch.images))
    parts = tf.data.Dataset.from_tensor_slices(batch).batch(len(batch.images))
    return [step.run(strategy.experimental_distribute_dataset(parts), rate).loss for _ in range(3)][-1]


@pytest.mark.parametrize("kind", ["embedded", "random", "file", "hub BiT", "as it is", "archive"])
def test_contract(kind: str, kinds: dict[str, str]) -> None:
    info = describe_backbone(kinds[kind])
    classifier = loaded(info)
    batch = a_batch()
    features = classifier.features(batch.images)
    assert features.shape == (6, info.features)
    assert features.dtype == tf.float32
    assert sum(int(np.prod(v.shape)) for v in classifier.backbone.trainable_variables) == info.parameters
    assert info.multiply_adds(96) > 0
    assert info.activation_elements(96) > 0

    # The head alone: nothing else moves, not even kept statistics.
    classifier.backbone.train_part("head")
    before = classifier.snapshot()
    step_of(classifier, strategy_of(1), batch, 0.01)
    after = classifier.snapshot()
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        f"{HEAD}kernel",
        f"{HEAD}bias",
    }

    # All of it, and the way back through a snapshot.
    classifier.backbone.train_part("full")
    step_of(classifier, strategy_of(1), batch, 0.01)
    trained = classifier.snapshot()
    assert all(not np.array_equal(before[name], trained[name]) for name in before)
    answers = classifier(batch.images)
    again = loaded(info)
    again.load(trained)
    np.testing.assert_allclose(again(batch.images), answers, rtol=1e-5, atol=1e-5)


def test_the_last_blocks_train_and_nothing_before_them() -> None:
    classifier = loaded(describe_backbone("bit-r26x0.5"))
    classifier.head.kernel.assign(tf.random.stateless_normal(classifier.head.kernel.shape, [0, 1]))
    classifier.backbone.train_part("last-1")
    before = classifier.snapshot()
    step_of(classifier, strategy_of(1), a_batch(), 0.01)
    after = classifier.snapshot()
    trained = {name for name in before if not np.array_equal(before[name], after[name])}
    assert trained == {
        name for name in before if name.startswith(("resnet/block4/", "resnet/group_norm/", "resnet/head/"))
    }


PREFIXED = [
    lambda name: f"resnet_v2_3/{name.removeprefix('resnet/').replace('standardized_conv2d', 'standardized_conv2d_7')}",
    lambda name: f"keras_layer/{name}",
]


@pytest.mark.parametrize("rename", PREFIXED, ids=["numbered", "prefixed"])
def test_names_are_recognised_in_any_order(rename: Callable[[str], str]) -> None:
    arrays = R14.array_shapes
    names = sorted(arrays, key=lambda name: hash((name, 1)))
    (first, *_) = matches([f"{rename(name)}:0" for name in names], [arrays[name] for name in names])
    assert first.how == "names"
    assert {array: names[index] for array, index in first.variables.items()} == {name: name for name in arrays}


@pytest.mark.parametrize("architecture", [Architecture(50, 1), Architecture(152, 4)], ids=str)
@pytest.mark.parametrize(
    "order",
    [
        pytest.param(sorted, id="alphabetical"),
        pytest.param(lambda names: sorted(names, key=lambda name: name.endswith("kernel")), id="kernels last"),
        pytest.param(lambda names: [*names[-2:], *names[:-2]], id="last norm first"),
    ],
)
def test_without_names_one_of_the_orders_is_right(
    architecture: Architecture, order: Callable[[list[str]], list[str]]
) -> None:
    names = order(list(architecture.array_shapes))
    found = list(matches(["Variable:0"] * len(names), [architecture.array_shapes[name] for name in names]))
    assert all(match.architecture == architecture and match.how == "order" for match in found)
    assert any(all(names[index] == array for array, index in match.variables.items()) for match in found)


def test_heads_are_found_beside_the_arrays() -> None:
    shapes = [*R14.array_shapes.values(), (R14.features, 7), (7,)]
    match = next(matches(["Variable"] * len(shapes), shapes))
    assert (match.variables[f"{HEAD}kernel"], match.variables[f"{HEAD}bias"]) == (len(shapes) - 2, len(shapes) - 1)


def test_other_networks_are_no_bit() -> None:
    shapes = list(R14.array_shapes.values())
    assert not list(matches(["v"] * (len(shapes) - 1), shapes[:-1]))
    assert not list(matches(["v"] * (len(shapes) + 1), [*shapes, (3, 3, 8, 8)]))


@pytest.mark.parametrize(
    ("rename", "order", "input_range", "how"),
    [
        pytest.param(lambda name: f"module/{name}_1", list, (0, 1), "names", id="names, 0..1"),
        pytest.param(lambda name: "v", sorted, (-1, 1), "order", id="no names, -1..1"),
    ],
)
def test_a_bit_among_savedmodels_runs_natively(
    rename: Callable[[str], str],
    order: Callable[[list[str]], list[str]],
    input_range: tuple[float, float],
    how: str,
    tmp_path: Path,
) -> None:
    """Its arrays are the original's, whatever they were called, and its pixels are known by proof."""
    save_bit(tmp_path / "module", rename, order, input_range)
    info = describe_backbone(str(tmp_path / "module"))
    assert (info.architecture, info.input_range) == ("R14x0.5", (-1, 1))
    assert f"by the {how}" in info.notes[0]
    for name, array in golden_arrays().items():
        np.testing.assert_array_equal(read_arrays(Path(info.path or ""))[name], array)
    wrong = (-1, 1) if input_range == (0, 1) else (0, 1)
    with pytest.raises(BackboneError, match=r"takes images in \[.*proved.*Leave it out"):
        describe_backbone(str(tmp_path / "module"), input_range=wrong)


def test_a_bit_that_computes_something_else_runs_as_it_is(tmp_path: Path) -> None:
    """The variables fit, the outputs do not: the proof fails, and is said to."""
    save_bit(tmp_path / "module", lambda name: name, after=lambda features: features**2)
    with pytest.raises(BackboneError, match="input range of module is unknown"):
        describe_backbone(str(tmp_path / "module"))
    info = describe_backbone(str(tmp_path / "module"), input_range=(0, 1))
    assert info.opaque is not None
    assert info.input_range == (0, 1)
    assert "variables are those of R14x0.5, but its outputs differ" in info.notes[1]


# As it is


def test_statistics_follow_training_and_the_penalty_counts_once_a_step(kinds: dict[str, str]) -> None:
    """Three steps against plain TensorFlow, in one micro-batch and in two."""
    batch = a_batch()
    net = SmallNet()
    kernel, bias = tf.Variable(tf.zeros([16, 3])), tf.Variable(tf.zeros([3]))
    variables = [net.kernel, net.gamma, net.beta, kernel, bias]
    velocities = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    expected = []
    for _ in range(3):
        with tf.GradientTape() as tape:
            logits = net(batch.images, training=True) @ kernel + bias
            losses = tf.nn.softmax_cross_entropy_with_logits(batch.targets, logits)
            loss = tf.reduce_mean(losses) + 1e-3 * tf.nn.l2_loss(net.kernel)
        for variable, velocity, gradient in zip(variables, velocities, tape.gradient(loss, variables), strict=True):
            velocity.assign(0.9 * velocity - 0.1 * gradient)
            variable.assign_add(velocity)
        expected.append(float(loss))
    classifier = loaded(describe_backbone(kinds["as it is"]))
    step = TrainingStep(classifier, strategy_of(1), 6)
    assert [step.run([batch], 0.1).loss for _ in range(3)] == pytest.approx(expected, rel=1e-5)
    arrays = {name.split("/", 2)[2]: variable for name, variable in classifier.backbone.arrays.items()}
    np.testing.assert_allclose(arrays["bn/moving_mean"], net.mean, rtol=1e-4, atol=1e-6)
    assert describe_backbone(kinds["as it is"]).opaque.keeps_statistics  # type: ignore[union-attr]


def test_two_devices_train_a_module_as_it_is(kinds: dict[str, str]) -> None:
    """Both see the same images, so that their batch norms agree with one device's."""
    info = describe_backbone(kinds["as it is"])
    batch = a_batch(12)
    twice = MicroBatch(*(np.concatenate([part[:6], part[:6]]) for part in batch))
    losses = []
    for devices, fed in ((1, MicroBatch(*(part[:6] for part in batch))), (2, twice)):
        with strategy_of(devices).scope():
            classifier = loaded(info)
        losses.append(step_of(classifier, strategy_of(devices), fed, 0.1))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_frozen_savedmodels_extract_features_and_say_that_they_cannot_train(tmp_path: Path) -> None:
    """Signatures only, and the TF1 format."""
    net = SmallNet()
    serve = tf.function(
        lambda images: {"features": net(images)}, input_signature=[tf.TensorSpec([None, None, None, 3])]
    )
    holder = tf.train.Checkpoint(variables_=[net.kernel, net.gamma, net.beta, net.mean, net.variance])
    tf.saved_model.save(holder, str(tmp_path / "signatures"), signatures={"serving_default": serve})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.float32, [None, 40, 40, 3])
        kernel = tf.compat.v1.get_variable("kernel", initializer=np.ones((5, 5, 3, 4), np.float32))
        features = tf.reduce_mean(tf.nn.conv2d(images, kernel, 4, "SAME"), [1, 2])
        session.run(kernel.initializer)
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "tf1"), {"images": images}, {"default": features})
    for name, features_expected, side in (("signatures", 16, None), ("tf1", 4, 40)):
        info = describe_backbone(str(tmp_path / name), input_range=(0, 1))
        assert info.opaque is not None
        assert (info.opaque.trainable, info.features, info.opaque.side) == (False, features_expected, side)
        side = side or 32
        assert GraphModule(tmp_path / name)(np.zeros((2, side, side, 3), np.float32)).shape == (2, features_expected)


def test_modules_that_do_not_train_are_known_to(tmp_path: Path) -> None:
    """Saved for inference only, or without a gradient: fine-tuning must not pretend."""
    net = SmallNet()
    stopped = Module(lambda images, training: tf.stop_gradient(net(images)), net.variables)
    tf.saved_model.save(stopped, str(tmp_path / "stopped"))
    inference = tf.train.Checkpoint(variables=net.variables, trainable_variables=[net.kernel])
    inference.__call__ = tf.function(lambda images, training=False: net(images))
    inference.__call__.get_concrete_function(tf.TensorSpec([None, None, None, 3]), training=False)
    tf.saved_model.save(inference, str(tmp_path / "inference"))
    for name in ("stopped", "inference"):
        options = {"dataset": "digits", "backbone": tmp_path / name, "input_range": "0,1"}
        with pytest.raises(RecipeError, match=r"has no trainable weights .* Use --train head"):
            hyperrule.plan(**options)
        assert hyperrule.plan(**options, train="head").train.deviates


def test_dropout_of_a_module_runs_and_is_said_to_end_exact_resuming(image_folder: Path, tmp_path: Path) -> None:
    """Unseeded, which TensorFlow refuses under determinism; in a process of its own, for that stays on."""
    net = SmallNet()

    def features(images: tf.Tensor, training: bool) -> tf.Tensor:
        return tf.nn.dropout(net(images), 0.5) if training else net(images)

    dropped = Module(features, net.variables)
    tf.saved_model.save(dropped, str(tmp_path / "module"))
    info = describe_backbone(str(tmp_path / "module"))
    assert any("its own random numbers" in note for note in info.notes)
    options = {"dataset": image_folder, "backbone": tmp_path / "module", "batch": 4, "steps": 2, "crop": 32}
    code, _, stderr = run("finetune", *flags(options), "--out", str(tmp_path / "run"))
    assert code == 0, stderr


def test_an_export_whose_head_alone_was_trained_trains_again(
    kinds: dict[str, str], image_folder: Path, tmp_path: Path
) -> None:
    run = hyperrule.finetune(
        dataset=image_folder, backbone=kinds["as it is"], train="head", out=tmp_path / "run", **SHORT
    ).run
    assert describe_backbone(str(run.path)).opaque.trainable  # type: ignore[union-attr]


# The input range


@pytest.mark.parametrize("norm", ["fused", "written out"])
def test_batch_norm_tells_the_input_range(norm: str, tmp_path: Path) -> None:
    SmallNet(norm).save(tmp_path / "module")
    info = describe_backbone(str(tmp_path / "module"))
    assert info.input_range == (0, 1)
    assert "first batch norm" in info.notes[0]
    for wrong in ((-1.0, 1.0), (0.0, 255.0)):
        with pytest.raises(BackboneError, match=r"takes images in \[0, 1\].*Received: --input-range"):
            describe_backbone(str(tmp_path / "module"), input_range=wrong)


def test_input_range_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    SmallNet("none").save(tmp_path / "module")
    with pytest.raises(BackboneError, match=r"is unknown \(it has no batch norm.*Set it with --input-range: 0,1"):
        describe_backbone(str(tmp_path / "module"))
    assert describe_backbone(str(tmp_path / "module"), input_range=(0, 255)).input_range == (0, 255)


@pytest.mark.parametrize("kind", ["embedded", "random", "file"])
def test_bit_checkpoints_refuse_another_range(kind: str, kinds: dict[str, str]) -> None:
    with pytest.raises(BackboneError, match=r"takes images in \[-1, 1\].*Received: --input-range 0,1"):
        describe_backbone(kinds[kind], input_range=(0, 1))


def test_images_are_converted_inside(tmp_path: Path) -> None:
    """The same picture in [0, 1] reaches a network of each range as it wants it."""
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 3)).astype(np.float32)
    for input_range in ((0, 1), (-1, 1), (0, 255)):
        scale = tf.Variable(1.0, name="scale")
        module = Module(lambda images, training, scale=scale: tf.reduce_mean(images, [1, 2]) * scale, [scale])
        tf.saved_model.save(module, str(tmp_path / str(input_range)))
        classifier = loaded(describe_backbone(str(tmp_path / str(input_range)), input_range=input_range))
        low, high = input_range
        np.testing.assert_allclose(
            classifier.features(pixels), (low + (high - low) * pixels).mean((1, 2)), rtol=1e-4, atol=1e-5
        )


# From end to end


def losses(run: RunFolder) -> list[float]:
    return [line["loss"] for line in run.read_metrics() if line["kind"] == "step"]


@pytest.mark.usefixtures("without_export")
def test_a_bit_from_the_hub_trains_like_its_checkpoint(
    kinds: dict[str, str], image_folder: Path, tmp_path: Path
) -> None:
    """Fetched over HTTP as a module that takes [0, 1], against the .npz of the same weights."""
    shutil.make_archive(str(tmp_path / "module"), "gztar", kinds["hub BiT"])
    with Loopback() as server:
        server.answers["/r14x0.5/1"] = Answer((tmp_path / "module.tar.gz").read_bytes())
        results = [
            hyperrule.finetune(dataset=image_folder, backbone=backbone, out=tmp_path / str(index), **SHORT)
            for index, backbone in enumerate((f"{server.url}/r14x0.5/1", kinds["file"]))
        ]
    assert losses(results[0].run) == pytest.approx(losses(results[1].run), rel=1e-5)
    assert results[0].plan.backbone.architecture == "R14x0.5"


def test_a_foreign_network_trains_exports_resumes_and_trains_again(
    kinds: dict[str, str], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hyperrule.finetune(dataset=image_folder, backbone=kinds["as it is"], out=tmp_path / "first", **SHORT)
    assert first.parity.largest_difference < 1e-4
    assert first.plan.precision.value == "float32"

    # Stopped after two steps, with its batch norm's statistics in the checkpoint, it ends in the same bits.
    append = RunFolder.append_metrics

    def stop_after_two(run: RunFolder, line: dict[str, Any]) -> None:
        append(run, line)
        if line["step"] == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append_metrics", stop_after_two)
        with pytest.raises(Interrupted):
            hyperrule.finetune(dataset=image_folder, backbone=kinds["as it is"], out=tmp_path / "stopped", **SHORT)
    resumed = hyperrule.resume(tmp_path / "stopped", quiet=True)
    arrays = read_arrays(first.run.weights_file)
    for name, array in read_arrays(resumed.run.weights_file).items():
        np.testing.assert_array_equal(array, arrays[name])

    # The run, and its export, are backbones again: what was learnt is where the next training starts.
    for again in (first.run.path, first.run.saved_model):
        info = describe_backbone(str(again))
        assert (info.architecture, info.input_range) == ("SavedModel", (0, 1))
        kernel = next(v for name, v in loaded(info).backbone.arrays.items() if name.startswith("module/0000/"))
        np.testing.assert_array_equal(kernel, next(a for name, a in arrays.items() if name.startswith("module/0000/")))


def test_two_devices_export_the_mean_of_their_statistics(
    kinds: dict[str, str], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each saw other images; the export is compared with the evaluation, or finetune would raise."""
    monkeypatch.setattr("hyperrule.training.runtime.start", lambda *_, **__: strategy_of(2))
    options = {**SHORT, "micro_batch": 2, "base_lr": 0.1}
    result = hyperrule.finetune(dataset=image_folder, backbone=kinds["as it is"], out=tmp_path / "run", **options)
    initial = loaded(describe_backbone(kinds["as it is"])).snapshot()
    (mean,) = (name for name in initial if name.endswith("moving_mean"))
    assert not np.allclose(read_arrays(result.run.weights_file)[mean], initial[mean], rtol=1e-3)
    assert result.parity.top1_agreement == 1.0


# SavedModels that cannot be backbones


@pytest.mark.parametrize(
    ("function", "words"),
    [
        pytest.param(lambda images, training: images, "one vector of features", id="a picture"),
        pytest.param(
            lambda images, training: tf.argmax(tf.reduce_mean(images, [1, 2]), 1), "one vector", id="a class index"
        ),
        pytest.param(lambda images, training: {"a": images, "b": images}, "2 outputs: a, b", id="two outputs"),
    ],
)
def test_what_is_no_backbone(function: Callable[..., tf.Tensor], words: str, tmp_path: Path) -> None:
    tf.saved_model.save(Module(function, [tf.Variable(1.0)]), str(tmp_path / "module"))
    with pytest.raises(BackboneError, match=words):
        describe_backbone(str(tmp_path / "module"), input_range=(0, 1))


def test_half_precision_is_refused(tmp_path: Path) -> None:
    scale = tf.Variable(1.0, dtype=tf.float16)
    module = Module(lambda images, training: tf.reduce_mean(images, [1, 2]) * tf.cast(scale, tf.float32), [scale])
    tf.saved_model.save(module, str(tmp_path / "module"))
    with pytest.raises(BackboneError, match=r"variables must be float32\. Received: float16"):
        describe_backbone(str(tmp_path / "module"))


def test_a_savedmodel_of_text_and_a_broken_one(tmp_path: Path) -> None:
    text = tf.train.Checkpoint()
    text.__call__ = tf.function(
        lambda words: tf.strings.length(words), input_signature=[tf.TensorSpec([None], tf.string)]
    )
    tf.saved_model.save(text, str(tmp_path / "text"))
    with pytest.raises(BackboneError, match="no function whose only arguments are one batch of square float images"):
        describe_backbone(str(tmp_path / "text"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(BackboneError, match="cannot be loaded as a SavedModel"):
        describe_backbone(str(tmp_path / "broken"))
