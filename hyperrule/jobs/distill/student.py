"""The networks of a distillation: the teacher, which only infers, and the student, a BiT with the losses it learns by.

The student learns by function matching: both networks see the same pixels. Source of the loss on logits:
arXiv 2106.05237, section 3; google-research/big_vision, `trainers/proj/distill`. The loss on features is hyperrule's
own: the mean squared error of a linear map of the student's features from the teacher's standardised ones.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from hyperrule.backbones.backbone import Backbone
from hyperrule.backbones.bit.checkpoints import HEAD, Arrays
from hyperrule.data.pipeline import MicroBatch
from hyperrule.planning.distill import DistillPlan, TeacherInfo
from hyperrule.training.classifier import Classifier, load_classifier

# Names of the student's arrays that are not part of a BiT.
MAP = "distill/map/"
MEAN, SCALE = "distill/teacher/mean", "distill/teacher/scale"


class Lesson(NamedTuple):
    """A teacher's outputs for N images.

    `logits` are float32 [N, classes], None without a head; `features` float32 [N, width], None if it returns logits
    only.
    """

    logits: tf.Tensor | None
    features: tf.Tensor | None


class Teacher:
    """The teacher network, frozen. Create it within the strategy's scope.

    A BiT's kernels are standardised only once, and its convolutions run in `precision`; any other network runs as an
    opaque graph. Raises BackboneError if the files cannot be loaded.
    """

    def __init__(self, info: TeacherInfo, precision: str) -> None:
        self._has_logits, self._has_features = info.classes > 0, info.features > 0
        self._network = load_classifier(info.backbone, max(info.classes, 1), info.head, precision, folded=True)
        self._network.trainable = False

    def __call__(self, images: tf.Tensor) -> Lesson:
        """Return the outputs for images float32 [N, H, W, 3] in [0, 1]."""
        outputs = self._network.features(images)
        if not self._has_features:
            return Lesson(outputs, None)
        return Lesson(self._network.head(outputs) if self._has_logits else None, outputs)


class Student(Classifier):
    """A classifier that learns the logits of `teacher`, its features, or both, by the weights in the plan.

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
        """Return the losses float32 [M] of images at the larger of both crops; labels are not used."""
        lesson = self.teacher(_at(micro.images, self.teacher_crop))
        features = self.features(_at(micro.images, self.crop), training)
        losses = tf.zeros(tf.shape(features)[0])
        if self.logits_weight:
            losses += self.logits_weight * kl_divergence(lesson.logits, self.head(features), self.temperature)
        if self.features_weight:
            losses += self.features_weight * self.feature_errors(lesson.features, features)
        return losses

    def feature_errors(self, targets: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Return the mean squared errors, float32 [M], in units of the variance of the teacher's features.

        `targets` are the teacher's features, float32 [M, width], `features` the student's, float32 [M, features].
        """
        assert self.map is not None
        standardized = (targets - self.mean) / self.scale
        return tf.reduce_mean(tf.square(self.map(features) - standardized), axis=1)

    def scale_features(self, factor: float) -> None:
        """Multiply the features by `factor` > 0, and keep the logits.

        The last normalisation is scaled, which its ReLU passes on; the kernels that read the features are divided.
        """
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
        """Variables without weight decay: all but kernels (big_vision's default)."""
        return [variable for name, variable in self.arrays.items() if not name.endswith("kernel")]

    def bit_arrays(self, with_head: bool) -> Arrays:
        """Return the arrays of a checkpoint in BiT's public format, without those that only distillation needs."""
        return {
            name: array
            for name, array in self.snapshot().items()
            if name.startswith("resnet/") and (with_head or not name.startswith(HEAD))
        }


def kl_divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return temperature^2 KL(teacher || student), float32 [M].

    The distributions are the softmax of logits float32 [M, classes] / `temperature`.
    """
    teacher, student = tf.nn.log_softmax(teacher / temperature), tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=1)


def _at(images: tf.Tensor, side: int) -> tf.Tensor:
    """Resize images to `side`; bilinear resizing to half the side is the mean of 2 x 2 pixels."""
    return images if images.shape[1] == side else tf.image.resize(images, [side, side])
