"""The network and its step against the golden figures, autodiff and each other."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from conftest import golden_array
from devices import strategy_of

from hyperrule.backbones.bit.architecture import GROUPS, Architecture
from hyperrule.backbones.bit.checkpoints import HEAD
from hyperrule.backbones.bit.convolution import convolve
from hyperrule.backbones.bit.layers import GROUP_NORM_EPSILON, group_norm_relu, standardize
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.backbones.describe import describe_backbone
from hyperrule.data.open import open_source
from hyperrule.data.pipeline import MicroBatch
from hyperrule.data.preprocess import for_evaluation
from hyperrule.training.classifier import Classifier, fold, load_classifier
from hyperrule.training.step import TrainingStep

ARCHITECTURES = [Architecture(26, 0.5), Architecture(50, 1), Architecture(101, 1)]


def native(architecture: Architecture, classes: int) -> Classifier:
    return Classifier(ResNetV2(architecture), classes)


def golden_classifier(architecture: Architecture) -> Classifier:
    """Weights of the golden figures, 10-class head included."""
    classifier = native(architecture, 10)
    shapes = {
        **architecture.array_shapes,
        f"{HEAD}kernel": (1, 1, architecture.features, 10),
        f"{HEAD}bias": (10,),
    }
    classifier.load({name: golden_array(name, shape) for name, shape in shapes.items()})
    return classifier


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_features_and_logits_are_golden(architecture: Architecture, golden: dict[str, np.ndarray]) -> None:
    classifier = golden_classifier(architecture)
    copy = classifier.for_inference()
    fold(classifier, copy)
    compared = 0
    for key, expected in golden.items():
        if match := re.fullmatch(rf"{re.escape(str(architecture))}/seed(\d+)/([\dx]+)/(features|logits)", key):
            shape = tuple(map(int, match[2].split("x")))
            images = np.random.default_rng(int(match[1])).uniform(-1, 1, shape).astype(np.float32)
            for network in (classifier, copy):
                function = network.features if match[3] == "features" else network
                received = function((images + 1) / 2).numpy()
                assert np.abs(received - expected).max() <= 1e-4 * np.abs(expected).max()
                compared += 1
    assert compared >= 4


@pytest.mark.parametrize(
    ("architecture", "devices", "micro_batch"),
    [(ARCHITECTURES[0], 1, 8), (ARCHITECTURES[0], 2, 8), (ARCHITECTURES[1], 1, 4)],
    ids=str,
)
def test_sgd_trajectory_is_golden(
    architecture: Architecture, devices: int, micro_batch: int, golden: dict[str, np.ndarray]
) -> None:
    strategy = strategy_of(devices)
    with strategy.scope():
        classifier = golden_classifier(architecture)
        for variable in (classifier.head.kernel, classifier.head.bias):
            variable.assign(tf.zeros(variable.shape))
        step = TrainingStep(classifier, strategy, 8)
    images = np.random.default_rng(7).uniform(-1, 1, (8, 64, 64, 3)).astype(np.float32)
    batch = MicroBatch((images + 1) / 2, np.eye(10, dtype=np.float32)[:8], np.ones(8, np.float32))
    batches = tf.data.Dataset.from_tensor_slices(batch).batch(micro_batch)
    losses = [step.run(strategy.experimental_distribute_dataset(batches), 0.03).loss for _ in range(6)]
    assert losses == pytest.approx(golden[f"{architecture}/trajectory/losses"], rel=1e-3)


def test_micro_batches_and_devices_change_nothing_but_rounding() -> None:
    """Batch 48 in one piece, in pieces of 10 (the last padded), and over two devices."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (48, 32, 32, 3)).astype(np.float32)
    targets = rng.dirichlet(np.ones(3), 48).astype(np.float32)

    def trajectory(devices: int, micro_batch: int) -> list[float]:
        strategy = strategy_of(devices)
        with strategy.scope():
            classifier = native(Architecture(26, 0.5), 3)
            classifier.load(
                {name: golden_array(name, shape) for name, shape in Architecture(26, 0.5).array_shapes.items()},
                with_head=False,
            )
            step = TrainingStep(classifier, strategy, 48)
        padding = -48 % micro_batch
        whole = MicroBatch(
            np.concatenate([images, images[:padding]]),
            np.concatenate([targets, targets[:padding]]),
            np.concatenate([np.ones(48), np.zeros(padding)]).astype(np.float32),
        )
        batches = tf.data.Dataset.from_tensor_slices(whole).batch(micro_batch)
        return [step.run(strategy.experimental_distribute_dataset(batches), 0.03).loss for _ in range(5)]

    whole = trajectory(1, 48)
    assert trajectory(1, 10) == pytest.approx(whole, rel=1e-4)
    assert trajectory(2, 10) == pytest.approx(whole, rel=1e-4)


def test_group_norm_gradient_is_autodiffs_in_float64() -> None:
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(0.3, 2.0, (3, 5, 4, 2 * GROUPS)))
    gamma, beta = (tf.constant(rng.normal(size=2 * GROUPS)) for _ in range(2))
    upstream = tf.constant(rng.normal(size=x.shape))

    def plain(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        grouped = tf.reshape(x, [3, 5, 4, GROUPS, 2])
        mean, variance = tf.nn.moments(grouped, axes=[1, 2, 4], keepdims=True)
        normalised = tf.reshape((grouped - mean) / tf.sqrt(variance + GROUP_NORM_EPSILON), x.shape)
        return tf.nn.relu(normalised * gamma + beta)

    results = []
    for function in (group_norm_relu, plain):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y = function(x, gamma, beta)
        results.append([y, *tape.gradient(y, [x, gamma, beta], output_gradients=upstream)])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (5, 7), (12, 11)])
def test_convolution_and_its_gradients_are_tensorflows(size: int, stride: int, height: int, width: int) -> None:
    """Against conv2d with explicit paddings and its own gradients; the shape of the images known or not."""
    margin = (size - 1) // 2
    paddings = [[0, 0], [margin, margin], [margin, margin], [0, 0]]
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(3, height, width, 8)), tf.float32)
    kernel = tf.constant(rng.normal(size=(size, size, 8, 16)), tf.float32)
    rows, columns = -(-height // stride), -(-width // stride)
    upstream = tf.constant(rng.normal(size=(3, rows, columns, 16)), tf.float32)

    def all_of(function: Callable[..., tf.Tensor]) -> Callable[..., list[tf.Tensor]]:
        def outputs(x: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = function(x, kernel)
            return [y, *tape.gradient(y, [x, kernel], output_gradients=upstream)]

        return outputs

    ours = all_of(lambda x, kernel: convolve(x, kernel, stride))
    unknown = tf.function(
        ours, autograph=False, input_signature=[tf.TensorSpec([None, None, None, 8]), tf.TensorSpec(kernel.shape)]
    )
    expected = all_of(lambda x, kernel: tf.nn.conv2d(x, kernel, stride, paddings))(x, kernel)
    for results in (ours(x, kernel), unknown(x, kernel)):
        for received, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(received, wanted, rtol=1e-4, atol=1e-4)


def test_standardized_kernels_have_no_mean_and_unit_variance() -> None:
    kernel = standardize(tf.random.stateless_normal([3, 3, 16, 8], [0, 1], mean=2.0, stddev=0.1)).numpy()
    assert kernel.mean(axis=(0, 1, 2)) == pytest.approx(np.zeros(8), abs=1e-5)
    assert kernel.var(axis=(0, 1, 2)) == pytest.approx(np.ones(8), rel=1e-4)


@pytest.mark.parametrize(("depth", "width", "millions"), [(50, 1, 23.5), (101, 3, 381.8), (152, 4, 928.3)])
def test_parameter_counts(depth: int, width: float, millions: float) -> None:
    """Features only, from kernel shapes; R50x1's 23.5 M is the published ResNet-50 without its head."""
    assert Architecture(depth, width).parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_multiply_adds_agree_with_the_traced_graph() -> None:
    """TensorFlow's own count of the convolutions' operations in one forward pass."""
    architecture = Architecture(26, 0.5)
    classifier = native(architecture, 2)
    graph = tf.function(classifier.features).get_concrete_function(tf.TensorSpec([1, 128, 128, 3])).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = tf.compat.v1.profiler.profile(graph, options=options)
    convolutions = sum(
        node.total_float_ops
        for node in _leaves(profile)
        if node.name.split("/")[-1].startswith(("Conv2D", "MatMul"))  # 1x1 convolutions are matrix products
    )
    assert convolutions == pytest.approx(2 * architecture.multiply_adds(128), rel=0.02)


def _leaves(node):
    return [leaf for child in node.children for leaf in _leaves(child)] if node.children else [node]


def test_bfloat16_stays_near_float32() -> None:
    """Features of real digits by the embedded backbone: 2.6 % apart when measured."""
    backbone = describe_backbone("bit-r26x0.5")
    contents = open_source("digits").examples("test").contents
    images = np.stack([for_evaluation(contents[index], 128) for index in range(8)])
    features = {}
    for precision in ("float32", "bfloat16"):
        classifier = load_classifier(backbone, 2, precision=precision)
        features[precision] = classifier.features(images).numpy()
        assert features[precision].dtype == np.float32
    distance = np.linalg.norm(features["bfloat16"] - features["float32"])
    assert 0 < distance <= 0.04 * np.linalg.norm(features["float32"])
