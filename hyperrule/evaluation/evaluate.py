"""Exact evaluation: a folded copy of the classifier over every example of a split, once, on all devices."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data import Examples
from hyperrule.data.pipeline import evaluation_batches
from hyperrule.progress import Report
from hyperrule.training.classifier import Classifier, fold
from hyperrule.training.workers import Workers

Floats = npt.NDArray[np.float32]


class Evaluator:
    """A float32 copy with folded kernels, compiled once and filled anew for each evaluation.

    Images are resized to `crop` x `crop` pixels and go through in parts of `micro_batch` on each device; each worker
    takes its part of them, and has the answers for all.
    """

    def __init__(self, classifier: Classifier, crop: int, micro_batch: int, workers: Workers) -> None:
        self.source = classifier
        self.crop = crop
        self.micro_batch = micro_batch
        self.workers = workers
        with workers.strategy.scope():
            self.copy = classifier.for_inference()
        self._features = self.compiled(self.copy.features)
        self._logits = self.compiled(self.copy)

    def refresh(self) -> Classifier:
        """The copy, holding the classifier's weights of this moment."""
        with self.workers.strategy.scope():
            fold(self.source, self.copy)
        return self.copy

    def logits(self, examples: Examples, report: Report | None = None) -> Floats:
        """Logits [N, classes] in the order of the examples; `report` hears how many are done."""
        return self.over_all(self._logits, self.copy.head.units, examples, report)

    def features(self, examples: Examples, report: Report | None = None) -> Floats:
        """Pooled features [N, features] in the order of the examples."""
        return self.over_all(self._features, self.copy.backbone.features, examples, report)

    def compiled(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function of images [M, crop, crop, 3] in [0, 1], for `over_all`."""
        run = self.workers.strategy.run
        compiled: Callable[[tf.Tensor], tf.Tensor] = tf.function(
            lambda images: run(function, (images,)), autograph=False
        )
        return compiled

    def over_all(
        self, function: Callable[[tf.Tensor], tf.Tensor], columns: int, examples: Examples, report: Report | None = None
    ) -> Floats:
        """What a `compiled` function gives, [N, columns], in the order of the examples."""
        self.refresh()
        strategy, shard = self.workers.strategy, self.workers.shard
        dataset = evaluation_batches(examples, self.copy.head.units, self.crop, self.micro_batch, shard)
        outputs, part = [], shard.part(len(examples))
        for batch in strategy.distribute_datasets_from_function(lambda _: dataset):
            outputs += [output.numpy() for output in strategy.experimental_local_results(function(batch.images))]
            if report is not None:
                done = len(outputs) * self.micro_batch
                report(min(self.workers.count * done, len(examples)), "")
        answers = np.zeros((len(examples), columns), np.float32)
        answers[part.start : part.stop] = np.concatenate(outputs)[: len(part)]
        return self.workers.sum(answers)
