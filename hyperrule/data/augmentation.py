"""What training does to an image before the network sees it, as functions of a seed."""

from dataclasses import dataclass

import tensorflow as tf

from hyperrule.data.preprocess import for_training, inception_crop


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
