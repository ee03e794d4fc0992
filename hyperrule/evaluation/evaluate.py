"""Run a folded classifier over every example of a split, once."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.dataset_info import Examples
from hyperrule.data.pipeline import evaluation_batches
from hyperrule.progress import Report
from hyperrule.training.classifier import Classifier


def predict_probabilities(
    classifier: Classifier, examples: Examples, crop: int, micro_batch: int, report: Report | None = None
) -> npt.NDArray[np.float32]:
    """Softmax probabilities [N, classes] in the order of the examples; `report` hears how many are done."""
    return _over_all(lambda images: tf.nn.softmax(classifier(images)), classifier, examples, crop, micro_batch, report)


def extract_features(
    classifier: Classifier, examples: Examples, crop: int, micro_batch: int, report: Report | None = None
) -> npt.NDArray[np.float32]:
    """Pooled features [N, features] in the order of the examples."""
    return _over_all(classifier.features, classifier, examples, crop, micro_batch, report)


def _over_all(
    function: Callable[[tf.Tensor], tf.Tensor],
    classifier: Classifier,
    examples: Examples,
    crop: int,
    micro_batch: int,
    report: Report | None,
) -> npt.NDArray[np.float32]:
    compiled = tf.function(function, autograph=False)
    outputs, done = [], 0
    for batch in evaluation_batches(examples, classifier.head.units, crop, micro_batch):
        present = int(tf.reduce_sum(batch.weights))
        outputs.append(compiled(batch.images).numpy()[:present])
        done += present
        if report is not None:
            report(done, "")
    return np.concatenate(outputs)
