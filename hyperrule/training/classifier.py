"""A backbone with a linear head, and its folded copy for inference."""

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from hyperrule.backbones.backbone import Backbone, assign_arrays
from hyperrule.backbones.bit.checkpoints import HEAD, Arrays, StoredArrays
from hyperrule.backbones.bit.layers import standardize
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.backbones.info import BIT_RANGE, BackboneInfo, InputRange
from hyperrule.backbones.saved_model.graph_module import GraphModule
from hyperrule.data.pipeline import MicroBatch

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


class Classifier(keras.Model):
    """Images [N, H, W, 3] in [0, 1], whatever the backbone takes -> logits float32 [N, classes].

    The head is one float32 linear layer, zero at first (arXiv 1912.11370, section 3.3).
    """

    def __init__(self, backbone: Backbone, classes: int, input_range: InputRange = BIT_RANGE) -> None:
        super().__init__(name="classifier")
        self.backbone = backbone
        self.input_range = input_range
        self.head = keras.layers.Dense(classes, kernel_initializer="zeros", dtype="float32", name="head")
        self.head.build((None, backbone.features))
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.head(self.features(images, training))

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Images [N, H, W, 3] in [0, 1] -> float32 [N, features]."""
        low, high = self.input_range
        return self.backbone((high - low) * images + low, training=training)

    def losses_of(self, micro: MicroBatch, training: bool) -> tf.Tensor:
        """What training lessens, float32 [M], one number an image: softmax cross-entropy."""
        return tf.nn.softmax_cross_entropy_with_logits(micro.targets, self(micro.images, training=training))

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        """All variables by name, BiT's by checkpoint name; the head as a 1 x 1 convolution would be named."""
        return {**self.backbone.arrays, **self.head_arrays}

    @property
    def head_arrays(self) -> dict[str, keras.Variable]:
        return {f"{HEAD}kernel": self.head.kernel, f"{HEAD}bias": self.head.bias}

    def load(self, arrays: Mapping[str, np.ndarray], *, with_head: bool = True) -> None:
        """Assign checkpoint arrays, of the backbone only without `with_head`; see `assign_arrays`."""
        assign_arrays(self.arrays if with_head else self.backbone.arrays, arrays)

    def snapshot(self) -> Arrays:
        """Copies of all arrays, in the public format (head kernel 1 x 1 x features x classes)."""
        arrays = {name: np.array(variable.numpy()) for name, variable in self.arrays.items()}
        arrays[f"{HEAD}kernel"] = arrays[f"{HEAD}kernel"][np.newaxis, np.newaxis]
        return arrays

    def for_inference(self) -> "Classifier":
        """A classifier to be filled by `fold`."""
        return Classifier(self.backbone.for_inference(), self.head.units, self.input_range)


def make_classifier(info: BackboneInfo, classes: int, precision: str = "float32", *, remat: bool = False) -> Classifier:
    """The backbone as `make_backbone` has it, with a zero head."""
    return Classifier(make_backbone(info, precision, remat=remat), classes, info.input_range)


def make_backbone(info: BackboneInfo, precision: str = "float32", *, remat: bool = False) -> Backbone:
    """The backbone as described, its weights still to be loaded if it is a BiT.

    `precision` and `remat` are for the training of a BiT, see `ResNetV2`; any other runs as it is.

    Raises BackboneError for a SavedModel that cannot be run.
    """
    if (network := info.network) is not None:
        initializer = "he_normal" if info.kind == "random" else "zeros"
        return ResNetV2(network, POLICIES[precision], initializer, remat=remat)
    return GraphModule(Path(info.path or ""))


def load_classifier(
    info: BackboneInfo,
    classes: int,
    head: str | os.PathLike[str] | None = None,
    precision: str = "float32",
    *,
    folded: bool = False,
) -> Classifier:
    """The backbone with its weights, and the head in the .npz `head`, or a zero one; `folded` as by `fold`.

    Raises BackboneError if the files cannot be loaded.
    """
    classifier = make_classifier(info, classes, precision)
    load_weights(classifier, info, head)
    if folded:
        fold(classifier, classifier)  # in place: the largest have no room for a copy
    return classifier


def load_weights(classifier: Classifier, info: BackboneInfo, head: str | os.PathLike[str] | None = None) -> None:
    """Give the backbone of a classifier what `info` has in a file for it, where it is a BiT (any other came with its
    weights, and random ones stay), and the head that of the .npz `head`. Call it in the strategy's scope.

    Raises BackboneError if the files cannot be loaded.
    """
    if info.network is not None and info.path is not None:
        with StoredArrays(Path(info.path)) as arrays:
            assign_arrays(classifier.backbone.arrays, arrays)
    if head is not None:
        with StoredArrays(Path(head)) as arrays:
            assign_arrays(classifier.head_arrays, arrays)


def fold(classifier: Classifier, copy: Classifier) -> None:
    """Fill what `for_inference` made with the classifier's weights, kernels standardised once and for all:
    what is evaluated and exported."""
    current = classifier.arrays
    for name, variable in copy.arrays.items():
        if variable is not current[name]:
            variable.assign(current[name])
    for conv in copy.backbone.convolutions:
        conv.kernel.assign(standardize(tf.convert_to_tensor(conv.kernel)))
        conv.standardized = True
