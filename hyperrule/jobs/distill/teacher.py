"""The teacher: a network that only infers, its logits and its features for whatever pixels the student sees."""

from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from hyperrule.backbones.bit.checkpoints import HEAD, StoredArrays
from hyperrule.planning.distill import TeacherInfo
from hyperrule.training.classifier import fold, make_classifier


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
