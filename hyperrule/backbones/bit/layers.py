"""The two layers that make BiT BiT: standardised convolution and GroupNorm + ReLU."""

from typing import Any

import keras
import tensorflow as tf

from hyperrule.backbones.bit.architecture import GROUPS
from hyperrule.backbones.bit.convolution import convolve

STANDARDIZATION_EPSILON = 1e-10  # google-research/big_transfer, bit_pytorch/models.py: StdConv2d
GROUP_NORM_EPSILON = 1e-5  # google-research/big_transfer, bit_tf2/normalization.py (Keras' default is 1e-3)


def standardize(kernel: tf.Tensor) -> tf.Tensor:
    """Shift and scale a kernel [H, W, I, O] to zero mean and unit variance per output channel (Qiao et al. 2019)."""
    mean, variance = tf.nn.moments(kernel, axes=[0, 1, 2], keepdims=True)
    return (kernel - mean) / tf.sqrt(variance + STANDARDIZATION_EPSILON)


class StandardizedConv2D(keras.layers.Layer):
    """Convolution without bias whose kernel is standardised in float32, zero-padded by (size - 1) / 2.

    Input [N, H, W, I] and output [N, H', W', O] are in the compute dtype. While `kernel_in_use` is set, that tensor
    replaces the standardised kernel, so that a training step can standardise once for all its micro-batches.
    `standardized` says that the stored kernel is already standardised.
    """

    def __init__(
        self, size: int, inputs: int, filters: int, stride: int = 1, initializer: str = "he_normal", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.stride = stride
        self.kernel_in_use: tf.Tensor | None = None
        self.standardized = False
        self.kernel = self.add_weight(
            shape=(size, size, inputs, filters), initializer=initializer, autocast=False, name="kernel"
        )
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = self.kernel_in_use
        if kernel is None:
            # Without the dependency, a graph standardises all kernels first, and holds a second copy of the network.
            with tf.control_dependencies([x]):
                stored = tf.convert_to_tensor(self.kernel)
                kernel = stored if self.standardized else standardize(stored)
        return convolve(x, tf.cast(kernel, x.dtype), self.stride)


class GroupNormReLU(keras.layers.Layer):
    """relu(GroupNorm(x)) with 32 groups; statistics in float32, gradient in closed form.

    Input and output [N, H, W, C] in the compute dtype.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", autocast=False, name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", autocast=False, name="beta")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return group_norm_relu(x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta))


@tf.custom_gradient
def group_norm_relu(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
    """Return relu(GroupNorm(x)) for x [N, H, W, C], gamma and beta [C]; statistics have the dtype of gamma.

    Normalisation is folded to one multiply-add per channel, so each activation is read twice in the forward pass (sums,
    then output) and twice in the backward pass. The gradient keeps only x and per-channel vectors.
    """
    dtype = gamma.dtype
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    per_group = x.shape[-1] // GROUPS
    group_size = tf.cast(height * width * per_group, dtype)
    grouped_gamma, grouped_beta = (tf.reshape(parameter, [1, GROUPS, per_group]) for parameter in (gamma, beta))

    def channel_sums(values: tf.Tensor) -> tf.Tensor:
        """[N, H, W, C] -> [N, groups, channels of a group]."""
        return tf.reshape(_spatial_sums(values), [-1, GROUPS, per_group])

    def group_mean(sums: tf.Tensor) -> tf.Tensor:
        """Sums [N, groups, channels of a group] -> mean over positions and channels [N, groups, 1]."""
        return tf.reduce_sum(sums, axis=2, keepdims=True) / group_size

    def spread(values: tf.Tensor) -> tf.Tensor:
        """[N, groups, channels of a group] -> [N, 1, 1, C] in the type of x."""
        return tf.cast(tf.reshape(values, [-1, 1, 1, x.shape[-1]]), x.dtype)

    wide = tf.cast(x, dtype)
    mean = group_mean(channel_sums(wide))
    variance = tf.nn.relu(group_mean(channel_sums(tf.square(wide))) - tf.square(mean))
    rstd = tf.math.rsqrt(variance + GROUP_NORM_EPSILON)
    scale = rstd * grouped_gamma
    y = tf.nn.relu(x * spread(scale) + spread(grouped_beta - mean * scale))

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        dz = tf.raw_ops.ReluGrad(gradients=upstream, features=y)
        wide_dz = tf.cast(dz, dtype)
        sum_dz = channel_sums(wide_dz)
        with tf.control_dependencies([upstream]):  # else TensorFlow keeps the forward pass's float32 copy of x
            wide_x = tf.cast(x, dtype)
        sum_dz_xhat = rstd * (channel_sums(wide_dz * wide_x) - mean * sum_dz)
        # d/dx of the normalisation, written as slope * x + offset on top of dz * scale.
        slope = -tf.square(rstd) * group_mean(grouped_gamma * sum_dz_xhat)
        offset = -slope * mean - rstd * group_mean(grouped_gamma * sum_dz)
        every_channel = tf.ones_like(scale)
        dx = dz * spread(scale) + (x * spread(slope * every_channel) + spread(offset * every_channel))
        return dx, *(tf.reshape(tf.reduce_sum(sums, axis=0), [-1]) for sums in (sum_dz_xhat, sum_dz))

    return y, gradient


def _spatial_sums(values: tf.Tensor) -> tf.Tensor:
    """[N, H, W, C] -> [N, C]. On a CPU, rows are summed by pooling, in half the time of a sum: docs/speed.md."""
    width = values.shape[2]
    if values.dtype == tf.float32 and width is not None and not tf.config.list_logical_devices("GPU"):
        # Pooling adds one by one: over the whole image, its rounding would lose twice as many digits as a sum's.
        values = tf.nn.avg_pool2d(values, [1, width], 1, "VALID") * float(width)
    return tf.reduce_sum(values, axis=[1, 2])
