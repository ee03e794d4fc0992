"""From pixels to network input: the one code path of training, evaluation, prediction and export.

Resizing is bilinear without antialiasing, as in google-research/big_transfer `bit_tf2/train.py`.
"""

import tensorflow as tf

from hyperrule.data.decode import decode


def resize(image: tf.Tensor, side: int) -> tf.Tensor:
    """uint8 [height, width, 3] or [N, height, width, 3], 0-255 -> float32 side x side pixels in [0, 1]."""
    shape = tf.shape(image)
    # TensorFlow resizes float32 at twice the speed of uint8: 0.6 against 1.2 ms to 480 px. Making float32 of every
    # pixel pays up to about 6 of them for one of the result, and costs 4 bytes each.
    return tf.cond(
        shape[-3] * shape[-2] <= 4 * side * side,
        lambda: tf.image.resize(tf.cast(image, tf.float32) * (1 / 255), [side, side]),
        lambda: tf.image.resize(image, [side, side]) * (1 / 255),
    )


def for_evaluation(encoded: tf.Tensor, crop: int) -> tf.Tensor:
    """Encoded image -> float32 [crop, crop, 3] in [0, 1], resized straight to the crop (C); see `decode`."""
    return resize(decode(encoded, crop), crop)


def for_training(
    encoded: tf.Tensor, resize_to: int, crop: int, random_crop: bool, random_flip: bool, seed: tf.Tensor
) -> tf.Tensor:
    """Encoded image -> float32 [crop, crop, 3] in [0, 1]; crop and flip are functions of `seed` (int64 [2]).

    Resized to resize_to x resize_to, cut to a window at a whole offset, the same chance for each, and mirrored or not:
    within 1e-5 of these steps one after the other on what `decode` gives for resize_to.
    """
    # One draw of three numbers; the raw operation, as tf.random.stateless_uniform takes 20 us to look for a device.
    row, column, flip = tf.unstack(tf.raw_ops.StatelessRandomUniform(shape=[3], seed=seed, dtype=tf.float32))
    side = resize_to if random_crop else crop
    image = decode(encoded, side)
    flipped = (flip < 0.5) if random_flip else False
    # Mirrored before it is resized, while it is small; a reversal along no axis costs nothing.
    image = resize(tf.reverse(image, axis=tf.range(tf.where(flipped, 1, 2), 2)), side)
    if random_crop:
        top, left = (tf.cast(share * (side - crop + 1), tf.int32) for share in (row, column))
        left = tf.where(flipped, side - crop - left, left)
        image = tf.slice(image, [top, left, 0], [crop, crop, 3])
    return tf.ensure_shape(image, [crop, crop, 3])
