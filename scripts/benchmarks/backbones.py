"""A training step of R50x1 (128 px, batch 16): native in each precision against the same network as a SavedModel
that runs as it is, alternating, medians of 5."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import hyperrule
from hyperrule.backbones.describe import describe_backbone
from hyperrule.backbones.graph_module import GraphModule
from hyperrule.data.pipeline import MicroBatch
from hyperrule.training.classifier import Classifier, make_classifier
from hyperrule.training.step import TrainingStep

BATCH, SIDE, CLASSES = 16, 128, 10

info = describe_backbone("random-r50x1")
with tempfile.TemporaryDirectory() as scratch:
    module = Path(scratch, "r50x1")
    hyperrule.port("random-r50x1", module, quiet=True)
    as_it_is = Classifier(GraphModule(module), CLASSES, (0, 1))
classifiers = {
    "as it is": as_it_is,
    "native float32": make_classifier(info, CLASSES),
    "native bfloat16": make_classifier(info, CLASSES, "bfloat16"),
}
steps = {name: TrainingStep(one, tf.distribute.get_strategy(), BATCH) for name, one in classifiers.items()}
rng = np.random.default_rng(0)
batch = MicroBatch(
    tf.constant(rng.uniform(0, 1, (BATCH, SIDE, SIDE, 3)), tf.float32),
    tf.constant(np.eye(CLASSES)[np.arange(BATCH) % CLASSES], tf.float32),
    tf.ones(BATCH),
)


def seconds(step: TrainingStep) -> float:
    start = time.perf_counter()
    step.run([batch], 0.001)
    return time.perf_counter() - start


for step in steps.values():
    step.run([batch], 0.001)  # compiles
rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(5)]
peer = statistics.median(taken["as it is"] for taken in rounds)
for name in steps:
    median = statistics.median(taken[name] for taken in rounds)
    print(f"{name:<16} {1 / median:5.2f} steps/s   {peer / median:5.2f} of as it is")
