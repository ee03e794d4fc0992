"""The student: a BiT with a head for the teacher's classes, and what it is to learn by function matching.

Source of the loss on logits: arXiv 2106.05237, section 3; google-research/big_vision, `trainers/proj/distill`. The
loss on features is ours: their mean squared error after standardisation, through a linear map.

The teacher: a network that only infers, its logits and its features for whatever pixels the student sees.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from hyperrule.backbones.backbone import Backbone
from hyperrule.backbones.bit.checkpoints import HEAD, Arrays, StoredArrays
from hyperrule.data.pipeline import MicroBatch
from hyperrule.planning.distill import DistillPlan, TeacherInfo
from hyperrule.training.classifier import Classifier, fold, make_classifier


class Lesson(NamedTuple):
    """What a teacher says of N images: logits float32 [N, classes], None where it has no head; features float32
    [N, width], None where it gives logits only."""

    logits: tf.Tensor | None
    features: tf.Tensor | None


class Teacher:
    """Of a BiT, kernels are standardised once and for all and convolutions run in `precision`; any other network runs
    as it is. Nothing of it trains. Make it within the strategy's scope.

    Raises BackboneError if the files cannot be loaded.
    """

    def __init__(self, info: TeacherInfo, precision: str) -> None:
        self._has_logits, self._has_features = info.classes > 0, info.features > 0
        self._network = make_classifier(info.backbone, max(info.classes, 1), precision)
        self._network.trainable = False
        if info.backbone.network is not None and info.backbone.path is not None:
            with StoredArrays(Path(info.backbone.path)) as arrays:
                self._network.load(arrays, with_head=False)
            fold(self._network, self._network)
        if info.head is not None:
            with StoredArrays(Path(info.head)) as arrays:
                self._network.head.kernel.assign(arrays[f"{HEAD}kernel"][0, 0])
                self._network.head.bias.assign(arrays[f"{HEAD}bias"])

    def __call__(self, images: tf.Tensor) -> Lesson:
        """Images float32 [N, H, W, 3] in [0, 1]."""
        outputs = self._network.features(images)
        if not self._has_features:
            return Lesson(outputs, None)
        return Lesson(self._network.head(outputs) if self._has_logits else None, outputs)


MAP = "distill/map/"  # names of the arrays that are no part of a BiT
MEAN, SCALE = "distill/teacher/mean", "distill/teacher/scale"


class Student(Classifier):
    """A classifier that learns from `teacher` what the plan weighs: its logits, its features, or both.

    `mean` and `scale` (float32 [width]) standardise the teacher's features; they are set once, before step 0.
    """

    def __init__(self, backbone: Backbone, teacher: Teacher, plan: DistillPlan) -> None:
        super().__init__(backbone, max(plan.teacher.classes, 1), plan.backbone.input_range)
        self.head.trainable = plan.logits_weight.value > 0
        self.teacher = teacher
        self.temperature = plan.temperature.value
        self.logits_weight, self.features_weight = plan.logits_weight.value, plan.features_weight.value
        self.crop, self.teacher_crop = plan.crop.value, plan.teacher_crop.value
        self.map: keras.layers.Dense | None = None
        if self.features_weight:
            width = plan.teacher.features
            self.map = keras.layers.Dense(width, kernel_initializer="zeros", dtype="float32", name="map")
            self.map.build((None, backbone.features))
            self.mean = self.add_weight(
                shape=[width], initializer="zeros", trainable=False, dtype="float32", name="mean"
            )
            self.scale = self.add_weight(
                shape=[width], initializer="ones", trainable=False, dtype="float32", name="scale"
            )

    def losses_of(self, micro: MicroBatch, training: bool) -> tf.Tensor:
        """Of images at the larger of both crops, in float32 [M]; their targets do not count."""
        lesson = self.teacher(_at(micro.images, self.teacher_crop))
        features = self.features(_at(micro.images, self.crop), training)
        losses = tf.zeros(tf.shape(features)[0])
        if self.logits_weight:
            losses += self.logits_weight * kl_divergence(lesson.logits, self.head(features), self.temperature)
        if self.features_weight:
            losses += self.features_weight * self.feature_errors(lesson.features, features)
        return losses

    def feature_errors(self, taught: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Mean squared error of the student's idea of its teacher's features, float32 [M, width], in parts of their
        variance, by its own, float32 [M, features]: [M]."""
        assert self.map is not None
        standardized = (taught - self.mean) / self.scale
        return tf.reduce_mean(tf.square(self.map(features) - standardized), axis=1)

    def scale_features(self, factor: float) -> None:
        """Multiply the features, and let the logits be: ReLU lets the last normalisation's scale through."""
        last = [f"resnet/group_norm/{name}" for name in ("gamma", "beta")]
        readers = [f"{HEAD}kernel", *([f"{MAP}kernel"] if self.map is not None else [])]
        for name in last:
            self.arrays[name].assign(self.arrays[name] * factor)
        for name in readers:
            self.arrays[name].assign(self.arrays[name] / factor)

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        if self.map is None:
            return super().arrays
        own = {f"{MAP}kernel": self.map.kernel, f"{MAP}bias": self.map.bias, MEAN: self.mean, SCALE: self.scale}
        return {**super().arrays, **own}

    @property
    def undecayed(self) -> list[keras.Variable]:
        """Variables that weight decay leaves alone: all but kernels (big_vision's default)."""
        return [variable for name, variable in self.arrays.items() if not name.endswith("kernel")]

    def load_weights_of(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Start from a BiT's arrays; its head stays away, for it means other classes."""
        for name, variable in self.backbone.arrays.items():
            variable.assign(arrays[name].reshape(variable.shape))

    def bit_arrays(self, with_head: bool) -> Arrays:
        """What is left when the teacher has gone: a checkpoint in BiT's public format."""
        return {
            name: array
            for name, array in self.snapshot().items()
            if name.startswith("resnet/") and (with_head or not name.startswith(HEAD))
        }


def kl_divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """KL(teacher || student) of softmaxed logits float32 [M, classes] over `temperature`, times its square: [M]."""
    teacher, student = tf.nn.log_softmax(teacher / temperature), tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=1)


def _at(images: tf.Tensor, side: int) -> tf.Tensor:
    """The same images, smaller; by halves, bilinear resizing is the mean of 2 x 2 pixels."""
    return images if images.shape[1] == side else tf.image.resize(images, [side, side])
