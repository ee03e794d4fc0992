"""Exact evaluation: a folded copy of the classifier over every example of a split, once."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data import Examples
from hyperrule.data.pipeline import evaluation_batches
from hyperrule.progress import Report
from hyperrule.training.classifier import Classifier, fold

Floats = npt.NDArray[np.float32]


class Evaluator:
    """A float32 copy with folded kernels, compiled once and filled anew for each evaluation.

    Images are resized to `crop` x `crop` pixels and go through in parts of `micro_batch`.
    """

    def __init__(self, classifier: Classifier, crop: int, micro_batch: int) -> None:
        self.source = classifier
        self.copy = classifier.for_inference()
        self.crop = crop
        self.micro_batch = micro_batch
        self._features = tf.function(self.copy.features, autograph=False)

    def refresh(self) -> Classifier:
        """The copy, holding the classifier's weights of this moment."""
        fold(self.source, self.copy)
        return self.copy

    def logits(self, examples: Examples, report: Report | None = None) -> Floats:
        """Logits [N, classes] in the order of the examples; `report` hears how many are done."""
        return self._over_all(self.copy.head, examples, report)

    def features(self, examples: Examples, report: Report | None = None) -> Floats:
        """Pooled features [N, features] in the order of the examples."""
        return self._over_all(lambda features: features, examples, report)

    def _over_all(
        self, on_features: Callable[[tf.Tensor], tf.Tensor], examples: Examples, report: Report | None
    ) -> Floats:
        self.refresh()
        outputs, done = [], 0
        for batch in evaluation_batches(examples, self.copy.head.units, self.crop, self.micro_batch):
            present = int(tf.reduce_sum(batch.weights))
            outputs.append(on_features(self._features(batch.images)).numpy()[:present])
            done += present
            if report is not None:
                report(done, "")
        return np.concatenate(outputs)
