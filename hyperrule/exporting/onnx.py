"""ONNX, by tf2onnx."""

from pathlib import Path

import tensorflow as tf

from hyperrule.prediction.card import Card
from hyperrule.training.classifier import Classifier

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
