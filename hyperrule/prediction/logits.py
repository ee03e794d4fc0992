"""A classifier in memory, and images streamed through it."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.images import EncodedImages
from hyperrule.data.pipeline import load_images
from hyperrule.data.preprocess import for_evaluation
from hyperrule.errors import BackboneError, RunError
from hyperrule.planning.cost import fit
from hyperrule.planning.machine.machine import this_machine
from hyperrule.prediction.exported import ExportedClassifier, Model
from hyperrule.prediction.released import ReleasedClassifier
from hyperrule.prediction.runtimes import RUNTIMES
from hyperrule.support.limits import usable_cores
from hyperrule.support.progress import Reporter, silent_native_stderr
from hyperrule.support.wording import printable
from hyperrule.training.classifier import load_classifier

BATCH = 32  # at most; larger ones are hardly faster
SMALLEST = np.finfo(np.float32).tiny  # a probability that has a logarithm

Logits = Callable[[tf.Tensor], tf.Tensor]
Batches = Generator[tuple[npt.NDArray[np.int64], tf.Tensor]]


def logits_function(classifier: Model) -> Logits:
    """Images float32 [N, size, size, 3] in [0, 1] -> calibrated logits float32 [N, classes], compiled once.

    Raises BackboneError if the files cannot be loaded.
    """
    if isinstance(classifier, ExportedClassifier):
        return _logits_of_export(classifier)
    if classifier.head is None:
        # A head of its own would be as large as the logits.
        function = load_classifier(classifier.backbone, classes=1).features
    else:
        function = load_classifier(classifier.backbone, classifier.classes, classifier.head, folded=True)
    images = tf.TensorSpec([None, classifier.size, classifier.size, 3], tf.float32)
    compiled: Logits = tf.function(
        lambda images: function(images) / classifier.temperature, input_signature=[images], autograph=False
    )
    return compiled


def _logits_of_export(classifier: ExportedClassifier) -> Logits:
    """Logarithms of the probabilities: they are logits of the same softmax."""
    try:
        with silent_native_stderr():
            export = RUNTIMES[classifier.runtime](str(classifier.path), usable_cores())
            probabilities = export.classify
            probabilities(np.zeros((1, classifier.size, classifier.size, 3), np.float32))
    except Exception as error:  # of whatever kind a runtime raises
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{printable(classifier.path)} cannot be loaded: {reason}") from error
    return lambda images: tf.math.log(tf.maximum(probabilities(images.numpy()), SMALLEST))


def streamed(classifier: Model, contents: EncodedImages, stage: str, reporter: Reporter) -> Batches:
    """(index int64 [M], logits float32 [M, classes]) of the images that can be decoded, in their order.

    The indices that never come are those of the others. Raises BackboneError if the classifier cannot be loaded;
    while it is iterated, RunError if TensorFlow fails.
    """
    with _told(classifier):
        logits = logits_function(classifier)
    return _batches(classifier, logits, contents, stage, reporter)


def _batches(classifier: Model, logits: Logits, contents: EncodedImages, stage: str, reporter: Reporter) -> Batches:
    batch = min(BATCH, len(contents))
    if isinstance(classifier, ReleasedClassifier):
        batch, _ = fit(classifier.backbone, classifier.size, batch, "float32", this_machine())
    with _told(classifier), reporter.stage(stage, len(contents)) as report:
        done = 0
        for indices, images in _decoded(contents, classifier.size, batch):
            yield indices.numpy(), logits(images)
            done = int(indices[-1]) + 1
            report(done, "")
        if done < len(contents):  # the last could not be decoded
            report(len(contents), "")


def _decoded(contents: EncodedImages, side: int, batch: int) -> tf.data.Dataset:
    """(index int64 [M], images float32 [M, side, side, 3] in [0, 1]) of those that can be decoded."""

    def decoded(encoded: tf.Tensor, number: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return number, for_evaluation(encoded, side)

    dataset = load_images(contents, tf.data.Dataset.range(len(contents)), lambda index: index, decoded)
    return dataset.ignore_errors().batch(batch).prefetch(2)


@contextmanager
def _told(classifier: Model) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        reason = str(error.message).strip().splitlines()[0]
        raise RunError(f"TensorFlow failed at {classifier.size} px: {reason}. Try another --size.") from error
