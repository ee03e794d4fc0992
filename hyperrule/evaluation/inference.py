"""Exact evaluation: applies a folded copy of the classifier to every example of a split once, on all devices.

Also extracts features by a frozen backbone, and writes predictions as a Parquet table. Needs TensorFlow.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.pipeline import evaluation_batches, undecodable
from hyperrule.errors import DataError, RunError
from hyperrule.planning.cost import fit_inference
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.planning.machine.machine import this_machine
from hyperrule.support.files import atomic_write
from hyperrule.support.progress import Report, Reporter
from hyperrule.support.wording import first_line, listed
from hyperrule.training import runtime
from hyperrule.training.classifier import Classifier, fold, load_classifier
from hyperrule.training.workers import Workers

Floats = npt.NDArray[np.float32]
SEED = 0  # of random weights


class Pass:
    """Applies a function to every example of a split once, in order, on all devices and workers.

    Images are resized to `crop` x `crop` pixels. On each device, `function` maps micro-batches of `micro_batch` images
    to float32 [M, columns]. Each worker evaluates its part of the examples, and receives the outputs of all.
    """

    def __init__(
        self, function: Callable[[tf.Tensor], tf.Tensor], columns: int, crop: int, micro_batch: int, workers: Workers
    ) -> None:
        self.columns = columns
        self.crop = crop
        self.micro_batch = micro_batch
        self.workers = workers
        run = workers.strategy.run
        self._compiled = tf.function(lambda images: run(function, (images,)), autograph=False)

    def __call__(self, examples: Examples, report: Report | None = None) -> Floats:
        """Return outputs float32 [N, columns] in the order of the examples; `report` is called with the number done."""
        strategy, shard = self.workers.strategy, self.workers.shard
        dataset = evaluation_batches(examples, 1, self.crop, self.micro_batch, shard)  # labels are not used
        outputs, part = [], shard.part(len(examples))
        for batch in strategy.distribute_datasets_from_function(lambda _: dataset):
            answers = self._compiled(batch.images)
            outputs += [output.numpy() for output in strategy.experimental_local_results(answers)]
            if report is not None:
                done = len(outputs) * self.micro_batch
                report(min(self.workers.count * done, len(examples)), "")
        everything = np.zeros((len(examples), self.columns), np.float32)
        everything[part.start : part.stop] = np.concatenate(outputs)[: len(part)]
        return self.workers.sum(everything)


class Evaluator:
    """A float32 copy of a classifier with folded kernels, compiled once. Each evaluation copies the current weights."""

    def __init__(self, classifier: Classifier, crop: int, micro_batch: int, workers: Workers) -> None:
        self.source = classifier
        self.strategy = workers.strategy
        with self.strategy.scope():
            self.copy = classifier.for_inference()
        self._features = Pass(self.copy.features, self.copy.backbone.features, crop, micro_batch, workers)
        self._logits = Pass(self.copy, self.copy.head.units, crop, micro_batch, workers)

    def refresh(self) -> Classifier:
        """Copy the classifier's current weights, and return the copy."""
        with self.strategy.scope():
            fold(self.source, self.copy)
        return self.copy

    def logits(self, examples: Examples, report: Report | None = None) -> Floats:
        """Return logits float32 [N, classes], in the order of the examples; `report` is called with the number done."""
        self.refresh()
        return self._logits(examples, report)

    def features(self, examples: Examples, report: Report | None = None) -> Floats:
        """Return pooled features float32 [N, D], in the order of the examples."""
        self.refresh()
        return self._features(examples, report)


def extract(info: BackboneInfo, examples: Examples, size: int, reporter: Reporter) -> npt.NDArray[np.float32]:
    """Extract pooled features float32 [N, D] on all GPUs, or the CPU; see `features_of`, also for errors."""
    machine, alone = this_machine(), Cluster()
    with failures_explained(examples, size):
        deterministic = info.opaque is None or not info.opaque.draws_random_numbers
        workers = Workers(runtime.start(machine, alone, deterministic=deterministic), alone)
        keras.utils.set_random_seed(SEED)
        with workers.strategy.scope():
            classifier = load_classifier(info, classes=1)
        evaluator = Evaluator(classifier, size, fit_inference(info, size, len(examples), machine), workers)
        with reporter.stage("Features", len(examples)) as report:
            return evaluator.features(examples, report)


@contextmanager
def failures_explained(examples: Examples, size: int) -> Iterator[None]:
    """Turn TensorFlow's errors within the block into a DataError that names the images that cannot be decoded, or into
    a RunError."""
    try:
        yield
    except tf.errors.OpError as error:
        if bad := undecodable(examples):
            raise DataError(f"{len(bad)} of the images cannot be decoded: {listed(bad)}.") from None
        raise RunError(
            f"TensorFlow failed to extract features at {size} px: {first_line(error)}. Try a smaller size."
        ) from error


def write_predictions(
    file: Path, examples: Examples, probabilities: npt.NDArray[np.float32], class_names: tuple[str, ...]
) -> None:
    """Write a Parquet table with one row for each example: id, label, predicted, score and probabilities.

    `probabilities` are float32 [N, classes]. Raises RunError if the file cannot be written.
    """
    names = np.array(class_names, dtype=object)
    best = probabilities.argmax(axis=1)
    table = pa.table(
        {
            "id": pa.array(examples.ids, pa.string()),
            "label": pa.array(names[examples.labels], pa.string()),
            "predicted": pa.array(names[best], pa.string()),
            "score": pa.array(probabilities.max(axis=1), pa.float32()),
            "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
        },
        metadata={"class_names": "\n".join(class_names)},
    )
    with atomic_write(file) as partial:
        pq.write_table(table, partial)
