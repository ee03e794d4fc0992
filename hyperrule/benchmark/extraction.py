"""Images through a frozen backbone; TensorFlow."""

from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.backbones.bit.checkpoints import StoredArrays
from hyperrule.backbones.info import BackboneInfo
from hyperrule.data.images import Examples
from hyperrule.data.pipeline import undecodable
from hyperrule.errors import DataError, RunError
from hyperrule.evaluation.evaluate import Evaluator
from hyperrule.planning.cost import fit
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.planning.machine.machine.machine import this_machine
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed
from hyperrule.training import runtime
from hyperrule.training.classifier import Classifier, make_classifier
from hyperrule.training.workers import Workers

BATCH = 32  # at most; larger ones are hardly faster
SEED = 0  # of random weights


def extract(info: BackboneInfo, examples: Examples, size: int, reporter: Reporter) -> npt.NDArray[np.float32]:
    """Pooled features [N, D] by the folded float32 network, on all GPUs or the CPU; see `features_of`."""
    machine, alone = this_machine(), Cluster()
    try:
        deterministic = info.as_it_is is None or not info.as_it_is.draws_random_numbers
        workers = Workers(runtime.start(machine, alone, deterministic=deterministic), alone)
        with workers.strategy.scope():
            classifier = _loaded(info)
        batch, _ = fit(info, size, min(BATCH, len(examples)), "float32", machine)
        evaluator = Evaluator(classifier, size, batch, workers)
        with reporter.stage("Features", len(examples)) as report:
            return evaluator.features(examples, report)
    except tf.errors.OpError as error:
        if bad := undecodable(examples):
            raise DataError(f"{len(bad)} of the images cannot be decoded: {listed(bad)}.") from None
        reason = str(error.message).strip().splitlines()[0]
        raise RunError(f"TensorFlow failed to extract features at {size} px: {reason}. Try a smaller size.") from error


def _loaded(info: BackboneInfo) -> Classifier:
    keras.utils.set_random_seed(SEED)
    classifier = make_classifier(info, classes=1)
    if info.network is not None and info.path is not None:
        with StoredArrays(Path(info.path)) as arrays:
            classifier.load(arrays, with_head=False)
    return classifier
