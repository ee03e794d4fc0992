"""Forms that other tools convert from the network: LiteRT, quantized or not, and ONNX."""

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.data.images import Examples
from hyperrule.data.pipeline import evaluation_batches
from hyperrule.exporting.formats import Quantize
from hyperrule.prediction.card import CARD_FILE, Card
from hyperrule.support.progress import silent_native_stderr
from hyperrule.training.classifier import Classifier

# What GroupNorm, the residual sums and the final probabilities are made of, as LiteRT calls it.
NORMALISATION = (
    "ADD", "AVERAGE_POOL_2D", "MEAN", "MUL", "NEG", "RELU", "RESHAPE", "RSQRT", "SOFTMAX", "SQUARE", "SUB", "SUM",
)  # fmt: skip
CALIBRATION_IMAGES = 200  # whose activations set the ranges of 8-bit integers


def export_litert(classifier: Classifier, card: Card, quantize: Quantize, calibration: Examples, file: Path) -> None:
    """Images float32 [N, S, S, 3] in [0, 1] -> probabilities float32 [N, classes].

    int8 has integer kernels, with ranges from `calibration` images; in a BiT, all but its convolutions and its head
    stays float32. labels.txt and hyperrule.json are appended as a zip, as LiteRT's
    associated files are (https://ai.google.dev/edge/litert/models/metadata).
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
    # That float inputs have no statistics; that the debugger, which only quantizes here, would use an old interpreter.
    with warnings.catch_warnings(action="ignore"), silent_native_stderr():
        if quantize == "int8" and isinstance(classifier.backbone, ResNetV2):
            file.write_bytes(_quantized_but_for_normalisation(converter))
        else:
            file.write_bytes(converter.convert())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "".join(f"{name}\n" for name in card.class_names))
        archive.writestr(CARD_FILE, card.model_dump_json(indent=2))


def _quantized_but_for_normalisation(converter: tf.lite.TFLiteConverter) -> bytes:
    """Variances of GroupNorm's groups span orders of magnitude: in 8 bits they leave 22 % of the labels of a 10-shot
    CIFAR-10 classifier as they were; so, 93 %."""
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


OPSET = 17  # the newest that tf2onnx 1.16 knows; ONNX Runtime reads it since 1.13


def export_onnx(classifier: Classifier, card: Card, file: Path) -> None:
    """Images float32 [batch, S, S, 3] in [0, 1] -> probabilities float32 [batch, classes]; the card is among the
    metadata, as "hyperrule"."""
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
