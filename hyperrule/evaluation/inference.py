"""Exact evaluation: a folded copy of the classifier over every example of a split, once, on all devices.

Images through a frozen backbone; TensorFlow.

Predictions by example, as a Parquet table.
"""

from collections.abc import Callable
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
from hyperrule.planning.cost import fit
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.planning.machine.machine import this_machine
from hyperrule.support.files import atomic_write
from hyperrule.support.progress import Report, Reporter
from hyperrule.support.wording import listed
from hyperrule.training import runtime
from hyperrule.training.classifier import Classifier, fold, load_classifier
from hyperrule.training.workers import Workers

Floats = npt.NDArray[np.float32]


class Pass:
    """A function of images over every example of a split, once, in order, on all devices and workers.

    Images are resized to `crop` x `crop` pixels and go through in parts of `micro_batch` on each device, of which
    `function` makes float32 [M, columns]. Each worker takes its part of the examples, and has the answers for all.
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
        """Answers [N, columns] in the order of the examples; `report` hears how many are done."""
        strategy, shard = self.workers.strategy, self.workers.shard
        dataset = evaluation_batches(examples, 1, self.crop, self.micro_batch, shard)  # labels do not count
        outputs, part = [], shard.part(len(examples))
        for batch in strategy.distribute_datasets_from_function(lambda _: dataset):
            answers = self._compiled(batch.images)
            outputs += [answer.numpy() for answer in strategy.experimental_local_results(answers)]
            if report is not None:
                done = len(outputs) * self.micro_batch
                report(min(self.workers.count * done, len(examples)), "")
        everything = np.zeros((len(examples), self.columns), np.float32)
        everything[part.start : part.stop] = np.concatenate(outputs)[: len(part)]
        return self.workers.sum(everything)


class Evaluator:
    """A float32 copy with folded kernels, compiled once and filled anew for each evaluation."""

    def __init__(self, classifier: Classifier, crop: int, micro_batch: int, workers: Workers) -> None:
        self.source = classifier
        self.strategy = workers.strategy
        with self.strategy.scope():
            self.copy = classifier.for_inference()
        self._features = Pass(self.copy.features, self.copy.backbone.features, crop, micro_batch, workers)
        self._logits = Pass(self.copy, self.copy.head.units, crop, micro_batch, workers)

    def refresh(self) -> Classifier:
        """The copy, holding the classifier's weights of this moment."""
        with self.strategy.scope():
            fold(self.source, self.copy)
        return self.copy

    def logits(self, examples: Examples, report: Report | None = None) -> Floats:
        """Logits [N, classes] in the order of the examples; `report` hears how many are done."""
        self.refresh()
        return self._logits(examples, report)

    def features(self, examples: Examples, report: Report | None = None) -> Floats:
        """Pooled features [N, features] in the order of the examples."""
        self.refresh()
        return self._features(examples, report)


BATCH = 32  # at most; larger ones are hardly faster
SEED = 0  # of random weights


def extract(info: BackboneInfo, examples: Examples, size: int, reporter: Reporter) -> npt.NDArray[np.float32]:
    """Pooled features [N, D] by the folded float32 network, on all GPUs or the CPU; see `features_of`."""
    machine, alone = this_machine(), Cluster()
    try:
        deterministic = info.opaque is None or not info.opaque.draws_random_numbers
        workers = Workers(runtime.start(machine, alone, deterministic=deterministic), alone)
        keras.utils.set_random_seed(SEED)
        with workers.strategy.scope():
            classifier = load_classifier(info, classes=1)
        batch, _ = fit(info, size, min(BATCH, len(examples)), "float32", machine)
        evaluator = Evaluator(classifier, size, batch, workers)
        with reporter.stage("Features", len(examples)) as report:
            return evaluator.features(examples, report)
    except tf.errors.OpError as error:
        if bad := undecodable(examples):
            raise DataError(f"{len(bad)} of the images cannot be decoded: {listed(bad)}.") from None
        reason = str(error.message).strip().splitlines()[0]
        raise RunError(f"TensorFlow failed to extract features at {size} px: {reason}. Try a smaller size.") from error


def write_predictions(
    file: Path, examples: Examples, probabilities: npt.NDArray[np.float32], class_names: tuple[str, ...]
) -> None:
    """One row an example: id, label, predicted, score, probabilities (in the order of the classes)."""
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
