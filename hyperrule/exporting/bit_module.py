"""Writes a BiT as a TF2 Hub module that trains like BiT: its kernels are not folded, its variables have BiT's names."""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.backbones.backbone import assign_arrays
from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import HEAD
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.backbones.info import BIT_RANGE, InputRange
from hyperrule.backbones.saved_model.graph_module import SavedModule
from hyperrule.backbones.saved_model.inspection import (
    SIDES,
    TOLERANCE,
    as_graph,
    difference,
    in_range,
    native_outputs,
    photographs,
)
from hyperrule.errors import RunError
from hyperrule.exporting.saved_model import HubForm
from hyperrule.support.progress import Reporter

Floats = npt.NDArray[np.float32]


def write_module(
    arrays: Mapping[str, Floats],
    architecture: Architecture,
    classifier: bool,
    input_range: InputRange,
    folder: Path,
    reporter: Reporter,
) -> float:
    """Write a SavedModel of BiT's arrays, load it again and compare it with the native network.

    It turns images float32 [N, H, W, 3] in `input_range` into features float32 [N, features], or with `classifier` into
    logits float32 [N, classes]. Returns the largest difference of outputs on real photographs, relative to the largest
    output. Raises RunError if that is more than 1e-4, OSError if TensorFlow cannot write.
    """
    try:
        expected = _save(arrays, architecture, classifier, input_range, folder)
        gc.collect()  # frees the network before the SavedModel takes as much memory
        reporter.say("Loading the SavedModel again, and comparing it with the native network ...")
        module = SavedModule(folder)
        differences = [
            difference(module(in_range(photographs(side), input_range), False).numpy(), outputs)
            for side, outputs in expected.items()
        ]
    except tf.errors.OpError as error:
        # The message begins with names of operations and temporary files.
        raise OSError(str(error.message).strip().splitlines()[0].rsplit("; ")[-1]) from error
    found = float(np.max(differences))  # NaN if any difference is
    if not found <= TOLERANCE:
        raise RunError(
            f"the SavedModel, loaded again, disagrees with the native network: outputs differ by {found:.2g} of the "
            f"largest (allowed: {TOLERANCE:g}). Please report this."
        )
    return found


def random_arrays(architecture: Architecture) -> dict[str, Floats]:
    """Return the weights of a random backbone in `finetune` with the default seed. Sets Keras' global seed."""
    keras.utils.set_random_seed(0)
    return {name: variable.numpy() for name, variable in ResNetV2(architecture).arrays.items()}


def _save(
    arrays: Mapping[str, Floats], architecture: Architecture, classifier: bool, input_range: InputRange, folder: Path
) -> dict[int, Floats]:
    """Write the SavedModel. Returns the native network's outputs for `photographs`, by image side (`SIDES`)."""
    network = ResNetV2(architecture, initializer="zeros")
    assign_arrays(network.arrays, arrays)
    head = _head(arrays) if classifier else []
    variables = [*network.arrays.values(), *head]
    tf.saved_model.save(
        HubForm(
            _function(network, head, input_range), variables, variables, (), input_range, uses_training_argument=False
        ),
        str(folder),
        signatures={},  # given, or TensorFlow would trace again to look for a default signature
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),  # GroupNorm's, or it would not train
    )
    graph = as_graph(network)
    return {side: native_outputs(graph, arrays, photographs(side), classifier) for side in SIDES}


def _head(arrays: Mapping[str, Floats]) -> list[keras.Variable]:
    with tf.name_scope(HEAD):
        return [keras.Variable(arrays[f"{HEAD}{name}"], name=name) for name in ("kernel", "bias")]


def _function(
    network: ResNetV2, head: list[keras.Variable], input_range: InputRange
) -> Callable[[tf.Tensor, bool], tf.Tensor]:
    low, high = input_range
    scale = (BIT_RANGE[1] - BIT_RANGE[0]) / (high - low)
    offset = BIT_RANGE[0] - scale * low

    def outputs(images: tf.Tensor, training: bool) -> tf.Tensor:
        features = network(scale * images + offset)
        if not head:
            return features
        kernel, bias = (variable.value for variable in head)
        return features @ kernel[0, 0] + bias

    return outputs
