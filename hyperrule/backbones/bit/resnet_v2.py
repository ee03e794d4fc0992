"""BiT's pre-activation ResNet as a Keras 3 model: images in [-1, 1] -> pooled features."""

from typing import Any

import keras
import tensorflow as tf

from hyperrule.backbones.backbone import Backbone, using_kernels
from hyperrule.backbones.bit.architecture import BLOCKS, Architecture, Unit
from hyperrule.backbones.bit.layers import GroupNormReLU, StandardizedConv2D

# Names of layers, and so the last parts of the scopes in array names: see `Architecture.array_shapes`.
CONV = "standardized_conv2d"
NORM = "group_norm"


class BottleneckUnit(keras.layers.Layer):
    """A pre-activation bottleneck unit [N, H, W, inputs] -> [N, H', W', out].

    y = relu(GN(x)); three convolutions with GN + ReLU between them; plus the shortcut. The shortcut is x, or a
    projection of y, not x (google-research/big_transfer).
    """

    def __init__(self, unit: Unit, initializer: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        dtype = self.dtype_policy

        def conv(scope: str, size: int, inputs: int, filters: int, stride: int = 1) -> StandardizedConv2D:
            with tf.name_scope(scope):
                return StandardizedConv2D(size, inputs, filters, stride, initializer, dtype=dtype, name=CONV)

        def norm(scope: str, channels: int) -> GroupNormReLU:
            with tf.name_scope(scope):
                return GroupNormReLU(channels, dtype=dtype, name=NORM)

        self.norms = [norm("a", unit.inputs), norm("b", unit.mid), norm("c", unit.mid)]
        self.convs = [
            conv("a", 1, unit.inputs, unit.mid),
            conv("b", 3, unit.mid, unit.mid, unit.stride),
            conv("c", 1, unit.mid, unit.out),
        ]
        self.projection = conv("a/proj", 1, unit.inputs, unit.out, unit.stride) if unit.has_projection else None
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        shortcut = x
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            x = norm(x)
            if index == 0 and self.projection is not None:
                shortcut = self.projection(x)
            x = conv(x)
        return x + shortcut

    def recomputed(self, x: tf.Tensor) -> tf.Tensor:
        """Like `call`, but the backward pass keeps only `x` and computes all other activations again."""

        def run(x: tf.Tensor, *kernels: tf.Tensor) -> tf.Tensor:
            with using_kernels(self.convolutions, kernels):
                return self(x)

        return tf.recompute_grad(run)(x, *[conv.kernel_in_use for conv in self.convolutions])

    @property
    def convolutions(self) -> list[StandardizedConv2D]:
        return self.convs + ([self.projection] if self.projection is not None else [])


class ResNetV2(Backbone):
    """Images float [N, H, W, 3] in [-1, 1], any H and W of 32 or more -> features float32 [N, 2048 x width].

    `dtype` is a Keras policy: "float32", "mixed_bfloat16" or "mixed_float16". Kernels, normalisation parameters and
    statistics, and the pooled sum are float32 in all of them. `initializer` is that of the kernels; "zeros" saves time
    if weights are loaded anyway. The tf.Variables have the checkpoint's names. `remat` computes units again in the
    backward pass instead of keeping their activations; it needs `using_kernels`, and affects training only.
    """

    def __init__(
        self,
        architecture: Architecture,
        dtype: str = "float32",
        initializer: str = "he_normal",
        remat: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=dtype, name="resnet", **kwargs)
        self.remat = remat
        self.architecture = architecture
        self.features = architecture.features
        with tf.name_scope("resnet/root_block/"):
            self.root = StandardizedConv2D(7, 3, architecture.root_channels, 2, initializer, dtype=dtype, name=CONV)
        self.units = [_unit(unit, initializer, dtype) for unit in architecture.units]
        with tf.name_scope("resnet/"):
            self.norm = GroupNormReLU(architecture.features, dtype=dtype, name=NORM)
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self.root(images)
        # Padding is 0, not -inf, as in BiT. It matters: values before the pooling are not rectified.
        x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
        for unit in self.units:
            x = unit.recomputed(x) if training and self.remat else unit(x)
        return tf.reduce_mean(tf.cast(self.norm(x), tf.float32), axis=[1, 2])

    @property
    def convolutions(self) -> list[StandardizedConv2D]:
        found = [self.root]
        for unit in self.units:
            found += unit.convolutions
        return found

    def train_part(self, part: str) -> None:
        """Choose the variables that train: "full", "head", or "last-1" to "last-3".

        "last-n" trains the last n blocks and the normalisation after them.
        """
        if not part.startswith("last-"):
            super().train_part(part)
            return
        first = BLOCKS + 1 - int(part.removeprefix("last-"))
        self.root.trainable = False
        for facts, unit in zip(self.architecture.units, self.units, strict=True):
            unit.trainable = facts.block >= first

    def for_inference(self) -> "ResNetV2":
        """Return a new float32 network, to be filled with folded kernels (see `fold`)."""
        return ResNetV2(self.architecture, initializer="zeros")

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        """Variables by their checkpoint names, in the order of `Architecture.array_shapes`."""
        found = {"resnet/root_block/standardized_conv2d/kernel": self.root.kernel}
        for facts, unit in zip(self.architecture.units, self.units, strict=True):
            for stage, norm, conv in zip("abc", unit.norms, unit.convs, strict=True):
                prefix = f"resnet/{facts.name}/{stage}"
                found[f"{prefix}/group_norm/gamma"] = norm.gamma
                found[f"{prefix}/group_norm/beta"] = norm.beta
                found[f"{prefix}/standardized_conv2d/kernel"] = conv.kernel
            if unit.projection is not None:
                found[f"resnet/{facts.name}/a/proj/standardized_conv2d/kernel"] = unit.projection.kernel
        found["resnet/group_norm/gamma"] = self.norm.gamma
        found["resnet/group_norm/beta"] = self.norm.beta
        return found


def _unit(unit: Unit, initializer: str, dtype: str) -> BottleneckUnit:
    with tf.name_scope(f"resnet/{unit.name}/"):
        return BottleneckUnit(unit, initializer, dtype=dtype, name=unit.name.replace("/", "_"))
