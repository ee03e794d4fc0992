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
    """Maps images float32 [N, H, W, 3] in [0, 1] to logits float32 [N, classes].

    Pixels are scaled to the backbone's `input_range` inside. The head is one float32 linear layer, which starts with
    zeros (arXiv 1912.11370, section 3.3).
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
        """Return features float32 [N, D] of images float32 [N, H, W, 3] in [0, 1]."""
        low, high = self.input_range
        return self.backbone((high - low) * images + low, training=training)

    def losses_of(self, micro: MicroBatch, training: bool) -> tf.Tensor:
        """Return the loss of each image, float32 [M]: softmax cross-entropy."""
        return tf.nn.softmax_cross_entropy_with_logits(micro.targets, self(micro.images, training=training))

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        """All variables by name: BiT's by checkpoint name, the head by the name of a 1 x 1 convolution."""
        return {**self.backbone.arrays, **self.head_arrays}

    @property
    def head_arrays(self) -> dict[str, keras.Variable]:
        return {f"{HEAD}kernel": self.head.kernel, f"{HEAD}bias": self.head.bias}

    def load(self, arrays: Mapping[str, np.ndarray], *, with_head: bool = True) -> None:
        """Assign checkpoint arrays, to the backbone only if not `with_head`; see `assign_arrays`."""
        assign_arrays(self.arrays if with_head else self.backbone.arrays, arrays)

    def snapshot(self) -> Arrays:
        """Return copies of all arrays in the public format (head kernel 1 x 1 x features x classes)."""
        arrays = {name: np.array(variable.numpy()) for name, variable in self.arrays.items()}
        arrays[f"{HEAD}kernel"] = arrays[f"{HEAD}kernel"][np.newaxis, np.newaxis]
        return arrays

    def for_inference(self) -> "Classifier":
        """Return a classifier that `fold` can fill."""
        return Classifier(self.backbone.for_inference(), self.head.units, self.input_range)


def make_classifier(info: BackboneInfo, classes: int, precision: str = "float32", *, remat: bool = False) -> Classifier:
    """Return the backbone of `make_backbone` with a head of zeros."""
    return Classifier(make_backbone(info, precision, remat=remat), classes, info.input_range)


def make_backbone(info: BackboneInfo, precision: str = "float32", *, remat: bool = False) -> Backbone:
    """Return the described backbone; the weights of a BiT are not loaded yet.

    `precision` and `remat` apply to a BiT only, see `ResNetV2`; an opaque graph keeps its own types.

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
    """Return the backbone with its weights and the head of the .npz `head`, or a head of zeros.

    With `folded`, kernels are standardised once, as `fold` does it.

    Raises BackboneError if the files cannot be loaded.
    """
    classifier = make_classifier(info, classes, precision)
    load_weights(classifier, info, head)
    if folded:
        fold(classifier, classifier)  # in place: the largest have no room for a copy
    return classifier


def load_weights(classifier: Classifier, info: BackboneInfo, head: str | os.PathLike[str] | None = None) -> None:
    """Load the weights of a BiT from the file of `info`, and the head from the .npz `head` if that is given.

    An opaque graph has its weights already; random weights stay. Call this in the strategy's scope.

    Raises BackboneError if the files cannot be loaded.
    """
    if info.network is not None and info.path is not None:
        with StoredArrays(Path(info.path)) as arrays:
            assign_arrays(classifier.backbone.arrays, arrays)
    if head is not None:
        with StoredArrays(Path(head)) as arrays:
            assign_arrays(classifier.head_arrays, arrays)


def fold(classifier: Classifier, copy: Classifier) -> None:
    """Copy the classifier's weights into `copy`, from `for_inference`, and standardise its kernels once.

    The copy is what is evaluated and exported.
    """
    current = classifier.arrays
    for name, variable in copy.arrays.items():
        if variable is not current[name]:
            variable.assign(current[name])
    for conv in copy.backbone.convolutions:
        conv.kernel.assign(standardize(tf.convert_to_tensor(conv.kernel)))
        conv.standardized = True
