"""A .keras file of Keras' own layers, which `keras.models.load_model` opens without hyperrule."""

import zipfile
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

from hyperrule.backbones.bit.architecture import GROUPS
from hyperrule.backbones.bit.layers import GROUP_NORM_EPSILON, GroupNormReLU, StandardizedConv2D
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.errors import UserError
from hyperrule.prediction.card import CARD_FILE, Card
from hyperrule.training.classifier import Classifier


def export_keras(classifier: Classifier, card: Card, file: Path) -> None:
    """Images [N, S, S, 3] in [0, 1] -> probabilities float32 [N, classes], of a BiT whose kernels are folded.

    Raises UserError for other networks: their graph is TensorFlow's, not Keras'.
    """
    network = classifier.backbone
    if not isinstance(network, ResNetV2):
        raise UserError("--format keras is for BiT: this network is a graph of TensorFlow's. Take saved_model or onnx.")
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
