"""From image bytes to network input: one code path for training, evaluation, prediction and export.

Resizing is bilinear without antialiasing, as in google-research/big_transfer (below: C) `bit_tf2/train.py`.
Augmentation is a function of a seed.
"""

from dataclasses import dataclass

import tensorflow as tf

from hyperrule.data.decode import decode

FLIP_STREAM = 1 << 41  # added to a seed, for an independent random stream
SMALLEST_WINDOW = 50  # source pixels; rounding by half a pixel is then at most 1 %


def resize(image: tf.Tensor, side: int | tf.Tensor) -> tf.Tensor:
    """Resize uint8 [height, width, 3] or [N, height, width, 3], 0-255, to float32 [..., side, side, 3] in [0, 1]."""
    shape = tf.shape(image)
    # TensorFlow resizes float32 twice as fast as uint8: 0.6 against 1.2 ms to 480 px. Converting every source pixel
    # first pays off up to about 6 source pixels per result pixel, and takes 4 bytes each.
    return tf.cond(
        shape[-3] * shape[-2] <= 4 * side * side,
        lambda: tf.image.resize(tf.cast(image, tf.float32) * (1 / 255), [side, side]),
        lambda: tf.image.resize(image, [side, side]) * (1 / 255),
    )


def for_evaluation(encoded: tf.Tensor, crop: int) -> tf.Tensor:
    """Decode an image (string scalar, see `decode`) and resize it to float32 [crop, crop, 3] in [0, 1], as C does."""
    return resize(decode(encoded, crop), crop)


def for_training(
    encoded: tf.Tensor, resize_to: int, crop: int, random_crop: bool, random_flip: bool, seed: tf.Tensor
) -> tf.Tensor:
    """Decode and augment an image (string scalar) to float32 [crop, crop, 3] in [0, 1], by `seed` (int64 [2]).

    The image is mirrored with probability 1/2, resized to resize_to x resize_to and cropped at a uniformly sampled
    whole-pixel offset. If the crop covers at least 50 source pixels each way, as in photographs, only the crop is
    resized: see `_window`. Other results are within 1e-5 of these steps in sequence on `decode(encoded, resize_to)`.
    """
    # One call for three numbers; the raw operation, as tf.random.stateless_uniform takes 20 us to look for a device.
    draws = tf.raw_ops.StatelessRandomUniform(shape=[3], seed=seed, dtype=tf.float32)
    image = decode(encoded, resize_to if random_crop else crop)
    flipped = (draws[2] < 0.5) if random_flip else False
    # Mirror before resizing enlarges the image; a reversal along no axis costs nothing.
    image = tf.reverse(image, axis=tf.range(tf.where(flipped, 1, 2), 2))
    if random_crop:
        image = _crop(image, resize_to, crop, tf.cast(draws[:2] * (resize_to - crop + 1), tf.int32))
    else:
        image = resize(image, crop)
    return tf.ensure_shape(image, [crop, crop, 3])


def inception_crop(encoded: tf.Tensor, crop: int, least_area: float, random_flip: bool, seed: tf.Tensor) -> tf.Tensor:
    """Decode an image (string scalar), crop a random window, resize it to float32 [crop, crop, 3] in [0, 1] and mirror
    it with probability 1/2, all by `seed` (int64 [2]).

    The window covers a fraction from `least_area` to 1 of the image's area, with an aspect ratio from 3/4 to 4/3; if
    100 attempts find none that fits, it is the whole image. Source: google-research/big_vision, `pp/ops_image.py`.
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
        # A random stream independent of the window's.
        flipped = tf.raw_ops.StatelessRandomUniform(shape=[], seed=seed + FLIP_STREAM, dtype=tf.float32) < 0.5
        image = tf.reverse(image, axis=tf.range(tf.where(flipped, 1, 2), 2))
    return tf.ensure_shape(image, [crop, crop, 3])


def _crop(image: tf.Tensor, resize_to: int, crop: int, offset: tf.Tensor) -> tf.Tensor:
    """Resize uint8 [height, width, 3], 0-255, and crop at `offset` (int32 [2]): float32 [crop, crop, 3] in [0, 1]."""
    start, size = _window(tf.shape(image)[:2], resize_to, crop, offset)
    large = tf.reduce_min(size) >= SMALLEST_WINDOW
    # Crop before or after resizing; the other slice takes everything and copies nothing: a tf.cond would cost more.
    image = _slice(image, tf.where(large, start, 0), tf.where(large, size, -1))
    image = resize(image, tf.where(large, crop, resize_to))
    return _slice(image, tf.where(large, 0, offset), [crop, crop])


def _window(shape: tf.Tensor, resize_to: int, crop: int, offset: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (start, size), each int32 [2], in whole source pixels of the crop at `offset` in the resized image.

    Size and centre are each rounded by at most half a source pixel: the window stays inside the image, and its scale is
    within 1 % if it has at least 50 pixels.
    """
    size = (2 * shape * crop + resize_to) // (2 * resize_to)
    twice_start = (2 * offset + crop) * shape - resize_to * size  # times resize_to, so that it is exact
    return (twice_start + resize_to) // (2 * resize_to), size


def _slice(image: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.slice(image, tf.concat([start, [0]], axis=0), tf.concat([size, [3]], axis=0))


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of BiT: resize, crop, mirror. `mixup` is alpha of mixup's Beta distribution, 0 for none."""

    resize: int
    crop: int
    random_crop: bool
    random_flip: bool
    mixup: float

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augment an encoded image (string scalar) to float32 [crop, crop, 3] in [0, 1], by `seed` (int64 [2])."""
        return for_training(encoded, self.resize, self.crop, self.random_crop, self.random_flip, seed)


@dataclass(frozen=True)
class InceptionAugmentation:
    """The augmentation of distillation: see `inception_crop`. `mixup` is alpha of the Beta distribution, 0 for none."""

    crop: int
    least_area: float
    random_flip: bool
    mixup: float

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augment an encoded image (string scalar) to float32 [crop, crop, 3] in [0, 1], by `seed` (int64 [2])."""
        return inception_crop(encoded, self.crop, self.least_area, self.random_flip, seed)
