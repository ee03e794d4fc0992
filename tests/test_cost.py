"""Computed operations and bytes against the graphs that TensorFlow traces."""

import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import tensorflow as tf

from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.layers import GroupNormReLU
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.data.pipeline import MicroBatch
from hyperrule.planning.cost import BYTES, forward_pass, total, training_step
from hyperrule.training.classifier import Classifier
from hyperrule.training.step import TrainingStep

IMAGES, CLASSES = 2, 3
SMALL, WIDE = Architecture(26, 0.5), Architecture(26, 3)
R50X1, R101X1, R101X3 = Architecture(50, 1), Architecture(101, 1), Architecture(101, 3)


def classifier_of(architecture: Architecture, remat: bool = False) -> Classifier:
    return Classifier(ResNetV2(architecture, initializer="zeros", remat=remat), CLASSES)


def multiply_adds(graph: tf.Graph) -> int:
    """Of all convolutions and matrix products that run, forward and backward, from their static shapes."""
    return sum(map(_multiply_adds, needed(graph)))


def needed(graph: tf.Graph) -> set[tf.Operation]:
    """Operations on which results or side effects depend: TensorFlow runs no others."""
    found: set[tf.Operation] = set()
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    assert not any("Call" in operation.type for operation in found), "functions within would go uncounted"
    return found


def _multiply_adds(operation: tf.Operation) -> int:
    shapes = [tensor.shape.as_list() for tensor in [*operation.inputs, *operation.outputs]]
    match operation.type:
        case "Conv2D":
            _, kernel, written = shapes
            return prod(written) * prod(kernel[:-1])
        case "Conv2DBackpropInput":
            _, kernel, written, _ = shapes
            return prod(written) * prod(kernel[:-1])
        case "Conv2DBackpropFilter":
            _, _, written, kernel = shapes
            return prod(written) * prod(kernel[:-1])
        case "MatMul":
            left, _, product = shapes
            return prod(product) * (left[0] if operation.get_attr("transpose_a") else left[1])
    return 0


def head(passes: int) -> int:
    return passes * IMAGES * CLASSES


@pytest.mark.parametrize(
    ("architecture", "crop"),
    [(SMALL, 128), (SMALL, 97), (R50X1, 128), (R50X1, 65), (R101X1, 64), (WIDE, 64)],
    ids=str,
)
def test_multiply_adds_of_a_forward_pass(architecture: Architecture, crop: int) -> None:
    images = tf.TensorSpec([IMAGES, crop, crop, 3])
    graph = tf.function(classifier_of(architecture)).get_concrete_function(images).graph
    expected = total(forward_pass(architecture, crop, IMAGES, "float32")).operations // 2
    assert multiply_adds(graph) - head(1) * architecture.features == expected


@pytest.mark.parametrize(
    ("architecture", "crop", "remat"),
    [(SMALL, 128, False), (SMALL, 97, False), (SMALL, 97, True), (R50X1, 128, False)],
    ids=str,
)
def test_multiply_adds_of_a_training_step(architecture: Architecture, crop: int, remat: bool) -> None:
    step = TrainingStep(classifier_of(architecture, remat), tf.distribute.get_strategy(), IMAGES)
    batch = MicroBatch(
        images=tf.TensorSpec([IMAGES, crop, crop, 3]),
        targets=tf.TensorSpec([IMAGES, CLASSES]),
        weights=tf.TensorSpec([IMAGES]),
    )
    graph = step._whole.get_concrete_function(batch).graph
    expected = total(training_step(architecture, crop, IMAGES, "float32", remat=remat)).operations // 2
    assert multiply_adds(graph) - head(3) * architecture.features == expected


def test_normalised_elements_are_those_that_the_layers_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    call = GroupNormReLU.call

    def noting(layer: GroupNormReLU, x: tf.Tensor) -> tf.Tensor:
        seen.append(prod(x.shape[1:]))
        return call(layer, x)

    monkeypatch.setattr(GroupNormReLU, "call", noting)
    tf.function(classifier_of(SMALL)).get_concrete_function(tf.TensorSpec([IMAGES, 97, 97, 3]))
    assert seen == [layer.elements for layer in SMALL.normalizations(97)]


@pytest.mark.parametrize("architecture", [SMALL, R50X1, R101X3], ids=str)
def test_layers_have_all_the_parameters(architecture: Architecture) -> None:
    kernels = sum(layer.weights for layer in architecture.convolutions(64))
    normalizations = sum(2 * layer.channels for layer in architecture.normalizations(64))
    assert kernels + normalizations == architecture.parameters


def test_work_grows_as_it_should() -> None:
    """In proportion to the images, weights aside; bfloat16 moves half the bytes of float32, weights aside."""
    step = {
        (images, precision): total(training_step(R50X1, 224, images, precision), "normalization")
        for images in (1, 8)
        for precision in BYTES
    }
    assert step[8, "float32"].bytes == 8 * step[1, "float32"].bytes == 16 * step[1, "bfloat16"].bytes
    whole, parts = (total(training_step(R50X1, 224, 8, "bfloat16", parts)) for parts in (1, 4))
    assert whole.operations == parts.operations
    assert whole.bytes < parts.bytes


def test_the_page_on_scaling_has_the_tables_of_today() -> None:
    script = Path(__file__).parents[1] / "scripts" / "benchmarks" / "scaling.py"
    subprocess.run([sys.executable, script, "--check"], check=True)
