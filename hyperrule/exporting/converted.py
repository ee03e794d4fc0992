"""Converts a classifier for other runtimes: LiteRT, quantized or not, ONNX, and a .keras file."""

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from hyperrule.backbones.bit.architecture import GROUPS
from hyperrule.backbones.bit.layers import GROUP_NORM_EPSILON, GroupNormReLU, StandardizedConv2D
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.data.images import Examples
from hyperrule.data.pipeline import evaluation_batches
from hyperrule.errors import UserError
from hyperrule.prediction.formats import CARD_FILE, Card, Quantize
from hyperrule.support.progress import silent_native_stderr
from hyperrule.training.classifier import Classifier

# LiteRT's names of the operations in GroupNorm, the residual sums and the final softmax.
NORMALISATION = (
    "ADD", "AVERAGE_POOL_2D", "MEAN", "MUL", "NEG", "RELU", "RESHAPE", "RSQRT", "SOFTMAX", "SQUARE", "SUB", "SUM",
)  # fmt: skip
CALIBRATION_IMAGES = 200  # their activations set the ranges of 8-bit integers
OPSET = 17  # of ONNX: the newest that tf2onnx 1.16 writes; ONNX Runtime reads it since 1.13


def export_litert(classifier: Classifier, card: Card, quantize: Quantize, calibration: Examples, file: Path) -> None:
    """Write a .tflite: images float32 [N, S, S, 3] in [0, 1] -> probabilities float32 [N, classes].

    int8 has integer kernels, and takes the ranges of activations from `calibration` images; in a BiT, everything but
    the convolutions and the head stays float32. labels.txt and hyperrule.json are appended as a zip, like LiteRT's
    associated files (https://ai.google.dev/edge/litert/models/metadata).
    """
    function = tf.function(
        lambda images: {"probabilities": tf.nn.softmax(classifier(images) / card.temperature)},
        input_signature=[tf.TensorSpec([None, card.size, card.size, 3], tf.float32, name="images")],
        autograph=False,
    )
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module())
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: _images(calibration, card.size)
    # Irrelevant warnings: float inputs have no statistics; the debugger's interpreter, unused here, is deprecated.
    with warnings.catch_warnings(action="ignore"), silent_native_stderr():
        if quantize == "int8" and isinstance(classifier.backbone, ResNetV2):
            file.write_bytes(_quantized_but_for_normalisation(converter))
        else:
            file.write_bytes(converter.convert())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "".join(f"{name}\n" for name in card.class_names))
        archive.writestr(CARD_FILE, card.model_dump_json(indent=2))


def _quantized_but_for_normalisation(converter: tf.lite.TFLiteConverter) -> bytes:
    """Convert with normalisation in float32.

    Variances of GroupNorm's groups span orders of magnitude. With these in 8 bits, a 10-shot CIFAR-10 classifier kept
    22 % of its labels; with these in float32, 93 %.
    """
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(NORMALISATION))
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=converter.representative_dataset, debug_options=options
    )
    quantized: bytes = debugger.get_nondebug_quantized_model()
    return quantized


def _images(examples: Examples, size: int) -> Iterator[list[tf.Tensor]]:
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(CALIBRATION_IMAGES, len(examples))).astype(int))
    for batch in evaluation_batches(examples.take(chosen), 1, size, 1):
        yield [batch.images]


def export_onnx(classifier: Classifier, card: Card, file: Path) -> None:
    """Write a .onnx: images float32 [batch, S, S, 3] in [0, 1] -> probabilities float32 [batch, classes].

    The card is in the metadata, under "hyperrule".
    """
    import onnx
    import tf2onnx

    function = tf.function(
        lambda images: {"probabilities": tf.nn.softmax(classifier(images) / card.temperature)}, autograph=False
    )
    images = tf.TensorSpec([None, card.size, card.size, 3], tf.float32, name="images")
    model, _ = tf2onnx.convert.from_function(function, input_signature=[images], opset=OPSET)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, {"hyperrule": card.model_dump_json()})
    onnx.save_model(model, str(file))


def export_keras(classifier: Classifier, card: Card, file: Path) -> None:
    """Write a .keras: images float32 [N, S, S, 3] in [0, 1] -> probabilities float32 [N, classes].

    The classifier must be a BiT with folded kernels. Raises UserError for other networks, which are opaque graphs and
    not made of Keras layers.
    """
    network = classifier.backbone
    if not isinstance(network, ResNetV2):
        raise UserError(
            "--format keras is for BiT networks: this one is an opaque TensorFlow graph. Use saved_model or onnx."
        )
    images = keras.Input((card.size, card.size, 3), name="images")
    low, high = classifier.input_range
    features = _features(network, layers.Rescaling(high - low, low)(images))
    head = layers.Dense(len(card.class_names), activation="softmax", dtype="float32", name="probabilities")
    model = keras.Model(images, head(features), name="classifier")
    kernel, bias = (tf.convert_to_tensor(variable) for variable in (classifier.head.kernel, classifier.head.bias))
    head.set_weights([(kernel / card.temperature).numpy(), (bias / card.temperature).numpy()])
    model.save(file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(CARD_FILE, card.model_dump_json(indent=2))


def _features(network: ResNetV2, x: keras.KerasTensor) -> keras.KerasTensor:
    x = _convolution(network.root, x)
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for unit in network.units:
        first, *norms = unit.norms
        rectified = _normalised(first, x)
        shortcut = x if unit.projection is None else _convolution(unit.projection, rectified)
        y = _convolution(unit.convs[0], rectified)
        for norm, convolution in zip(norms, unit.convs[1:], strict=True):
            y = _convolution(convolution, _normalised(norm, y))
        x = layers.Add()([shortcut, y])
    return layers.GlobalAveragePooling2D()(_normalised(network.norm, x))


def _convolution(folded: StandardizedConv2D, x: keras.KerasTensor) -> keras.KerasTensor:
    if folded.size > 1:
        x = layers.ZeroPadding2D(folded.size // 2)(x)
    layer = layers.Conv2D(folded.kernel.shape[-1], folded.size, folded.stride, use_bias=False)
    y = layer(x)
    layer.set_weights([folded.kernel.numpy()])
    return y


def _normalised(norm: GroupNormReLU, x: keras.KerasTensor) -> keras.KerasTensor:
    layer = layers.GroupNormalization(GROUPS, epsilon=GROUP_NORM_EPSILON)
    y = layer(x)
    layer.set_weights([norm.gamma.numpy(), norm.beta.numpy()])
    return layers.ReLU()(y)
