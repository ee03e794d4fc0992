"""A backbone with a linear head, and its folded copy for inference."""

import keras
import numpy as np
import tensorflow as tf

from hyperrule.backbones.architecture import Architecture
from hyperrule.backbones.checkpoints import HEAD, Arrays
from hyperrule.backbones.layers import standardize
from hyperrule.backbones.resnet_v2 import ResNetV2

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class Classifier(keras.Model):
    """Images [N, H, W, 3] in [0, 1] -> logits float32 [N, classes].

    The head is one float32 linear layer, zero at first (arXiv 1912.11370, section 3.3).
    """

    def __init__(self, architecture: Architecture, classes: int, precision: str = "float32") -> None:
        super().__init__(name="classifier")
        self.backbone = ResNetV2(architecture, POLICIES[precision])
        self.head = keras.layers.Dense(classes, kernel_initializer="zeros", dtype="float32", name="head")
        self.head.build((None, architecture.features))
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return self.head(self.features(images))

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """Images [N, H, W, 3] in [0, 1] -> float32 [N, features]."""
        return self.backbone(2.0 * images - 1.0)

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        """Trained variables by checkpoint name; the head as a 1 x 1 convolution would be named."""
        return {**self.backbone.arrays, f"{HEAD}kernel": self.head.kernel, f"{HEAD}bias": self.head.bias}

    def load(self, arrays: Arrays, *, with_head: bool = True) -> None:
        """Assign checkpoint arrays, whose names and shapes must fit; other arrays are ignored."""
        for name, variable in self.arrays.items():
            if with_head or not name.startswith(HEAD):
                variable.assign(arrays[name].reshape(variable.shape))

    def snapshot(self) -> Arrays:
        """Copies of all trained arrays, in the public format (head kernel 1 x 1 x features x classes)."""
        arrays = {name: np.array(variable.numpy()) for name, variable in self.arrays.items()}
        arrays[f"{HEAD}kernel"] = arrays[f"{HEAD}kernel"][np.newaxis, np.newaxis]
        return arrays


def fold(classifier: Classifier, copy: Classifier) -> None:
    """Fill a float32 copy with the classifier's weights, kernels standardised once and for all: what is
    evaluated and exported."""
    for name, variable in copy.arrays.items():
        variable.assign(classifier.arrays[name])
    for conv in copy.backbone.convolutions:
        conv.kernel.assign(standardize(tf.convert_to_tensor(conv.kernel)))
        conv.standardized = True
