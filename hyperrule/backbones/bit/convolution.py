"""BiT's convolutions, each computed in the fastest way for the device; measurements are in docs/speed.md."""

from typing import Any

import tensorflow as tf

NARROW = 7  # up to this width, one matrix product computes a 3x3 kernel's gradient faster than oneDNN's convolution


def convolve(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Convolve x [N, H, W, I], zero-padded by (size - 1) / 2, with kernel [size, size, I, O] -> [N, H', W', O].

    All are of one dtype. H' and W' are H and W divided by the stride, rounded up. If TensorFlow sees a GPU, cuDNN does
    everything: a matrix product would take away its choice of algorithm and layout.
    """
    size = kernel.shape[0]
    on_cpu = not tf.config.list_logical_devices("GPU")
    if on_cpu and size == 1:
        return _pointwise(x, kernel, stride)
    width = x.shape[2]
    if on_cpu and size == 3 and (stride == 2 or (width is not None and width <= NARROW)):
        return _convolve_3x3(x, kernel, stride)
    return _convolve(x, kernel, stride)


def _convolve(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    margin = (kernel.shape[0] - 1) // 2
    if stride == 1:
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    # SAME would pad a stride-2 convolution on the far side only; explicit paddings leave oneDNN's fast path.
    padded = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]]) if margin else x
    return tf.nn.conv2d(padded, kernel, stride, "VALID")


def _pointwise(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Compute a 1x1 convolution as a matrix product, and so both its gradients."""
    if stride > 1:
        x = tf.nn.avg_pool2d(x, 1, stride, "VALID")  # every other pixel; strided slices take several times as long
    inputs, outputs = kernel.shape[2:]
    product = tf.matmul(tf.reshape(x, [-1, inputs]), tf.reshape(kernel, [inputs, outputs]))
    return tf.reshape(product, [*_lengths(x)[:3], outputs])


def _convolve_3x3(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Compute a 3x3 convolution whose gradient with respect to the kernel is one matrix product over all patches."""

    @tf.custom_gradient
    def convolved(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            patches = tf.reshape(_patches(x, stride), [-1, 9 * x.shape[-1]])
            by_kernel = tf.matmul(patches, tf.reshape(upstream, [-1, kernel.shape[-1]]), transpose_a=True)
            return _gradient_by_input(x, kernel, upstream, stride), tf.reshape(by_kernel, kernel.shape)

        return _convolve(x, kernel, stride), gradient

    return convolved(x, kernel)


def _gradient_by_input(x: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride: int) -> tf.Tensor:
    batch, height, width, channels = _lengths(x)
    if stride == 1:
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=[batch, height, width, channels],
            filter=kernel,
            out_backprop=upstream,
            strides=[1, 1, 1, 1],
            padding="SAME",
        )
    padded = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[batch, height + 2, width + 2, channels],
        filter=kernel,
        out_backprop=upstream,
        strides=[1, stride, stride, 1],
        padding="VALID",
    )
    return padded[:, 1:-1, 1:-1]


def _patches(x: tf.Tensor, stride: int) -> tf.Tensor:
    """Return the 3x3 neighbourhoods of x [N, H, W, C], with zeros outside it: [N, H', W', 9 x C]."""
    _, height, width, channels = _lengths(x)
    rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride
    if stride == 1:
        padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        return tf.concat([padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=-1)
    # Blocks of 2x2 pixels become channels, so that every neighbour is a slice without strides, which is far cheaper.
    far = [2 * rows + 1 - height, 2 * columns + 1 - width]
    blocks = tf.nn.space_to_depth(tf.pad(x, [[0, 0], [1, far[0]], [1, far[1]], [0, 0]]), 2)
    slices = []
    for i in range(3):
        for j in range(3):
            place = (i % 2 * 2 + j % 2) * channels
            slices.append(blocks[:, i // 2 : i // 2 + rows, j // 2 : j // 2 + columns, place : place + channels])
    return tf.concat(slices, axis=-1)


def _lengths(x: tf.Tensor) -> list[int | tf.Tensor]:
    """Return the shape of x: integers where static, else scalar tensors."""
    dynamic = tf.shape(x)
    return [dynamic[axis] if length is None else length for axis, length in enumerate(x.shape)]
