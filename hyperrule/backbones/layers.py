"""The two layers that make BiT BiT: standardised convolution and GroupNorm + ReLU."""

from typing import Any

import keras
import tensorflow as tf

from hyperrule.backbones.architecture import GROUPS

STANDARDIZATION_EPSILON = 1e-10  # google-research/big_transfer, bit_pytorch/models.py: StdConv2d
GROUP_NORM_EPSILON = 1e-5  # google-research/big_transfer, bit_tf2/normalization.py (Keras' default is 1e-3)


def standardize(kernel: tf.Tensor) -> tf.Tensor:
    """Zero mean and unit variance for every output channel of a kernel [H, W, I, O] (Qiao et al. 2019)."""
    mean, variance = tf.nn.moments(kernel, axes=[0, 1, 2], keepdims=True)
    return (kernel - mean) / tf.sqrt(variance + STANDARDIZATION_EPSILON)


class StandardizedConv2D(keras.layers.Layer):
    """Convolution without bias whose kernel is standardised in float32, zero-padded by (size - 1) / 2.

    Input [N, H, W, I] in the compute dtype, output [N, H', W', O] in the same.
    While `kernel_in_use` is set, that tensor takes the place of the standardised kernel, so that a
    training step can standardise once for all its micro-batches. `standardized` says that the stored
    kernel already is.
    """

    def __init__(self, size: int, filters: int, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.filters = filters
        self.stride = stride
        self.kernel_in_use: tf.Tensor | None = None
        self.standardized = False

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            shape=(self.size, self.size, input_shape[-1], self.filters),
            initializer="he_normal",
            autocast=False,
            name="kernel",
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = self.kernel_in_use
        if kernel is None:
            stored = tf.convert_to_tensor(self.kernel)
            kernel = stored if self.standardized else standardize(stored)
        margin = (self.size - 1) // 2
        kernel = tf.cast(kernel, x.dtype)
        if self.stride == 1:
            return tf.nn.conv2d(x, kernel, 1, "SAME")
        # SAME would pad a stride-2 convolution on the far side only; explicit paddings leave oneDNN's fast path.
        padded = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]]) if margin else x
        return tf.nn.conv2d(padded, kernel, self.stride, "VALID")


class GroupNormReLU(keras.layers.Layer):
    """relu(GroupNorm(x)) with 32 groups; statistics in float32, gradient in closed form.

    Input and output [N, H, W, C] in the compute dtype.
    """

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape=shape, initializer="ones", autocast=False, name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", autocast=False, name="beta")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return group_norm_relu(x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta))


@tf.custom_gradient
def group_norm_relu(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
    """relu(GroupNorm(x)) for x [N, H, W, C], gamma and beta [C] (whose dtype the statistics have).

    Normalisation is folded to one multiply-add a channel, so an activation is read twice forward
    (sums, then output) and twice backward; the gradient keeps only x and per-channel vectors.
    """
    dtype = gamma.dtype
    batch, channels = tf.shape(x)[0], x.shape[-1]
    per_group = channels // GROUPS
    positions = tf.shape(x)[1] * tf.shape(x)[2]
    group_size = tf.cast(positions * per_group, dtype)

    def over_groups(values: tf.Tensor) -> tf.Tensor:
        """Per-channel sums [N, C] -> mean over each group, repeated for its channels [N, C]."""
        grouped = tf.reduce_sum(tf.reshape(values, [batch, GROUPS, per_group]), axis=2) / group_size
        return tf.repeat(grouped, per_group, axis=1)

    def spread(values: tf.Tensor) -> tf.Tensor:
        return tf.cast(values[:, tf.newaxis, tf.newaxis, :], x.dtype)

    wide = tf.cast(x, dtype)
    mean = over_groups(tf.reduce_sum(wide, axis=[1, 2]))
    mean_square = over_groups(tf.reduce_sum(tf.square(wide), axis=[1, 2]))
    rstd = tf.math.rsqrt(tf.nn.relu(mean_square - tf.square(mean)) + GROUP_NORM_EPSILON)
    scale = rstd * gamma
    y = tf.nn.relu(x * spread(scale) + spread(beta - mean * scale))

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        dz = tf.raw_ops.ReluGrad(gradients=upstream, features=y)
        wide_dz = tf.cast(dz, dtype)
        sum_dz = tf.reduce_sum(wide_dz, axis=[1, 2])
        sum_dz_xhat = rstd * (tf.reduce_sum(wide_dz * tf.cast(x, dtype), axis=[1, 2]) - mean * sum_dz)
        mean_dxhat = over_groups(gamma * sum_dz)
        mean_dxhat_xhat = over_groups(gamma * sum_dz_xhat)
        # d/dx of the normalisation, written as slope * x + offset on top of dz * scale.
        slope = -tf.square(rstd) * mean_dxhat_xhat
        offset = -slope * mean - rstd * mean_dxhat
        dx = dz * spread(scale) + (x * spread(slope) + spread(offset))
        return dx, tf.reduce_sum(sum_dz_xhat, axis=0), tf.reduce_sum(sum_dz, axis=0)

    return y, gradient
