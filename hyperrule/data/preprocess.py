"""From pixels to network input: the one code path of training, evaluation, prediction and export.

Resizing is bilinear without antialiasing, as in google-research/big_transfer `bit_tf2/train.py`.

What training does to an image before the network sees it, as functions of a seed.
"""

from dataclasses import dataclass

import tensorflow as tf

from hyperrule.data.decode import decode

FLIP_STREAM = 1 << 41  # added to a seed, for a draw that is independent of what it gave before
SMALLEST_WINDOW = 50  # source pixels: half a pixel more or less is 1 % of it


def resize(image: tf.Tensor, side: int | tf.Tensor) -> tf.Tensor:
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

    Mirrored or not, resized to resize_to x resize_to, cut to a window at a whole offset, the same chance for each. Of
    photographs, whose window has at least 50 source pixels each way, only the window is resized: see `_window`. All
    others are within 1e-5 of these steps one after the other on what `decode` gives for resize_to.
    """
    # One draw of three numbers; the raw operation, as tf.random.stateless_uniform takes 20 us to look for a device.
    draws = tf.raw_ops.StatelessRandomUniform(shape=[3], seed=seed, dtype=tf.float32)
    image = decode(encoded, resize_to if random_crop else crop)
    flipped = (draws[2] < 0.5) if random_flip else False
    # Mirrored while it is small; a reversal along no axis costs nothing.
    image = tf.reverse(image, axis=tf.range(tf.where(flipped, 1, 2), 2))
    if random_crop:
        image = _crop(image, resize_to, crop, tf.cast(draws[:2] * (resize_to - crop + 1), tf.int32))
    else:
        image = resize(image, crop)
    return tf.ensure_shape(image, [crop, crop, 3])


def inception_crop(encoded: tf.Tensor, crop: int, least_area: float, random_flip: bool, seed: tf.Tensor) -> tf.Tensor:
    """Encoded image -> float32 [crop, crop, 3] in [0, 1]; window and flip are functions of `seed` (int64 [2]).

    The window has from `least_area` to 1 of the image's area and an aspect ratio from 3/4 to 4/3; if 100 draws find
    none that fits, it is the whole image. Source: google-research/big_vision, `pp/ops_image.py`.
    """
    image = decode(encoded, int(crop / least_area**0.5))
    start, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([0, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(least_area, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    image = resize(tf.slice(image, start, size), crop)
    if random_flip:
        # Another stream than the window's.
        flipped = tf.raw_ops.StatelessRandomUniform(shape=[], seed=seed + FLIP_STREAM, dtype=tf.float32) < 0.5
        image = tf.reverse(image, axis=tf.range(tf.where(flipped, 1, 2), 2))
    return tf.ensure_shape(image, [crop, crop, 3])


def _crop(image: tf.Tensor, resize_to: int, crop: int, offset: tf.Tensor) -> tf.Tensor:
    """uint8 [height, width, 3] -> float32 [crop, crop, 3]: the window at `offset` (int32 [2]) of the resized image."""
    start, size = _window(tf.shape(image)[:2], resize_to, crop, offset)
    large = tf.reduce_min(size) >= SMALLEST_WINDOW
    # Cut before or after, and the other time from 0 to the end, which copies nothing: a tf.cond would cost more.
    image = _slice(image, tf.where(large, start, 0), tf.where(large, size, -1))
    image = resize(image, tf.where(large, crop, resize_to))
    return _slice(image, tf.where(large, 0, offset), [crop, crop])


def _window(shape: tf.Tensor, resize_to: int, crop: int, offset: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(start, size) in whole source pixels, int32 [2], of the window at `offset` of an image resized from `shape`.

    Size and centre are rounded, each by at most half a source pixel: so the window is inside the image, and at 50
    pixels or more its scale is within 1 %.
    """
    size = (2 * shape * crop + resize_to) // (2 * resize_to)
    twice_start = (2 * offset + crop) * shape - resize_to * size  # x resize_to, exact: around the exact centre
    return (twice_start + resize_to) // (2 * resize_to), size


def _slice(image: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.slice(image, tf.concat([start, [0]], axis=0), tf.concat([size, [3]], axis=0))


@dataclass(frozen=True)
class Augmentation:
    """BiT's: resize, cut, mirror; `mixup` is alpha of the Beta distribution, 0 for none."""

    resize: int
    crop: int
    random_crop: bool
    random_flip: bool
    mixup: float

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Encoded image -> float32 [crop, crop, 3] in [0, 1]; `seed` is int64 [2]."""
        return for_training(encoded, self.resize, self.crop, self.random_crop, self.random_flip, seed)


@dataclass(frozen=True)
class InceptionAugmentation:
    """Distillation's: a window of at least `least_area` of the picture, at any place, resized; mirrored."""

    crop: int
    least_area: float
    random_flip: bool
    mixup: float

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Encoded image -> float32 [crop, crop, 3] in [0, 1]; `seed` is int64 [2]."""
        return inception_crop(encoded, self.crop, self.least_area, self.random_flip, seed)
