"""A classifier in memory, and images streamed through it."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.images import EncodedImages
from hyperrule.data.pipeline import decodable_batches
from hyperrule.errors import BackboneError, RunError
from hyperrule.planning.cost import INFERENCE_BATCH, fit_inference
from hyperrule.planning.machine.machine import this_machine
from hyperrule.prediction.exported import ExportedClassifier, Model
from hyperrule.prediction.released import ReleasedClassifier
from hyperrule.prediction.runtimes import RUNTIMES
from hyperrule.support.limits import usable_cores
from hyperrule.support.progress import Reporter, silent_native_stderr
from hyperrule.support.wording import first_line, one_line, printable
from hyperrule.training.classifier import load_classifier

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
        reason = one_line(error)
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
    batch = min(INFERENCE_BATCH, len(contents))
    if isinstance(classifier, ReleasedClassifier):
        batch = fit_inference(classifier.backbone, classifier.size, len(contents), this_machine())
    with _told(classifier), reporter.stage(stage, len(contents)) as report:
        done = 0
        for indices, images in decodable_batches(contents, classifier.size, batch):
            yield indices.numpy(), logits(images)
            done = int(indices[-1]) + 1
            report(done, "")
        if done < len(contents):  # the last could not be decoded
            report(len(contents), "")


@contextmanager
def _told(classifier: Model) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise RunError(
            f"TensorFlow failed at {classifier.size} px: {first_line(error)}. Try another --size."
        ) from error
