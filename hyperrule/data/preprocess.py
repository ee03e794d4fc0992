"""From encoded bytes to network pixels: the one code path of training, evaluation and export.

Resizing is bilinear without antialiasing, as in google-research/big_transfer `bit_tf2/train.py`.
"""

import tensorflow as tf

FLIP_STREAM = (0, 1 << 40)  # added to a seed, so that flips do not depend on crops


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Scalar string with a JPEG, PNG, GIF (first frame), BMP or WebP -> uint8 [height, width, 3], 0-255.

    Grey is repeated to RGB and alpha dropped. Raises InvalidArgumentError for anything else.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def resize(image: tf.Tensor, side: int) -> tf.Tensor:
    """Pixels [height, width, 3] or [N, height, width, 3], 0-255 -> float32 side x side pixels in [0, 1]."""
    return tf.image.resize(image, [side, side]) / 255.0


def for_evaluation(encoded: tf.Tensor, crop: int) -> tf.Tensor:
    """Encoded image -> float32 [crop, crop, 3] in [0, 1], resized straight to the crop (C)."""
    return resize(decode(encoded), crop)


def for_training(
    encoded: tf.Tensor, resize_to: int, crop: int, random_crop: bool, random_flip: bool, seed: tf.Tensor
) -> tf.Tensor:
    """Encoded image -> float32 [crop, crop, 3] in [0, 1]; crop and flip are functions of `seed` (int64 [2])."""
    if not random_crop:
        image = for_evaluation(encoded, crop)
    else:
        offset = tf.random.stateless_uniform([2], seed, maxval=resize_to - crop + 1, dtype=tf.int32, alg="philox")
        image = resize(decode(encoded), resize_to)[offset[0] : offset[0] + crop, offset[1] : offset[1] + crop]
    if random_flip:
        flip = tf.random.stateless_uniform([], seed + FLIP_STREAM, alg="philox") < 0.5
        image = tf.cond(flip, lambda: tf.reverse(image, axis=[1]), lambda: image)
    return tf.ensure_shape(image, [crop, crop, 3])
