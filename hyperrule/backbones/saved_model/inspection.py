"""A SavedModel is run once: is it a BiT, what does it cost, and what pixels does it take?"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.datasets import load_sample_images
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from hyperrule.backbones.backbone import assign_arrays
from hyperrule.backbones.bit.checkpoints import HEAD, write_arrays
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.backbones.info import INPUT_RANGES, InputRange, ModuleFacts, OpaqueNetwork
from hyperrule.backbones.saved_model.graph_module import SavedModule
from hyperrule.backbones.saved_model.transplant import Match, matches
from hyperrule.support.files import atomic_write

Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-4  # largest difference from the original's largest value, in float32
SIDES = (96, 128)  # pixels, of the images that prove a transplant
COST_SIDE = 128
# Operations that draw from a state of their own, as dropout does.
RANDOM = {
    "RandomUniform",
    "RandomStandardNormal",
    "RandomUniformInt",
    "TruncatedNormal",
    "RandomShuffle",
    "Multinomial",
}


def inspect(folder: Path, sha256: str, weights: Path) -> ModuleFacts:
    """Run the SavedModel on real photographs. A BiT's arrays are written to `weights` (.npz).

    Raises BackboneError if it cannot be a backbone.
    """
    # A GPU's TF32 convolutions would prove nothing to 1e-4.
    with _only_errors_logged(), tf.device("CPU:0"):
        return _inspected(folder, sha256, weights)


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    """By TensorFlow, in this thread, within the block: the profiler's own deprecations are nobody's business."""
    here = threading.get_ident()

    def counts(record: logging.LogRecord) -> bool:
        return record.thread != here or record.levelno >= logging.ERROR

    tf.get_logger().addFilter(counts)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(counts)


def _inspected(folder: Path, sha256: str, weights: Path) -> ModuleFacts:
    module = SavedModule(folder)
    facts = ModuleFacts(
        sha256=sha256,
        features=module.features,
        parameters=sum(int(np.prod(variable.shape)) for variable in module.trainable_variables or module.variables),
        own_range=_stated_range(module),
    )
    proved, failed = _transplant(module, weights)
    if proved is not None:
        return facts.model_copy(update=proved)
    graph = _inlined(module, module.side or COST_SIDE).graph
    operations = _training_operations(module)
    return facts.model_copy(
        update={
            "failed_proof": failed,
            "deviations": _deviations(module),
            "opaque": OpaqueNetwork(
                trainable=_trains(module),
                side=module.side,
                keeps_statistics=any(op.startswith("Assign") for op in operations),
                draws_random_numbers=any(op in RANDOM for op in operations),
                penalties=len(module.regularization_losses),
                multiply_adds=_float_operations(graph) // 2,
                activation_elements=_activation_elements(graph),
                measured_at=module.side or COST_SIDE,
            ),
        }
    )


def photographs(side: int) -> Floats:
    """Eight real photographs, float32 [8, side, side, 3] in [0, 1]: parts of the two that scikit-learn carries."""
    quarters = [
        image[top : top + image.shape[0] // 2, left : left + image.shape[1] // 2]
        for image in load_sample_images().images
        for top, left in product((0, image.shape[0] // 2), (0, image.shape[1] // 2))
    ]
    return np.stack([tf.image.resize(quarter, [side, side]).numpy() / 255.0 for quarter in quarters])


def in_range(images: Floats, input_range: InputRange) -> Floats:
    """Images in [0, 1], as a network with another input range takes them."""
    low, high = input_range
    return images * np.float32(high - low) + np.float32(low)


def _transplant(module: SavedModule, weights: Path) -> tuple[dict[str, object] | None, str | None]:
    """What a proved transplant adds to the facts; or None, and why a likely one failed."""
    shapes = [tuple(variable.shape) for variable in module.variables]
    images = [photographs(side) for side in ((module.side,) if module.side else SIDES)]
    originals: dict[InputRange, list[Floats]] = {}
    network: ResNetV2 | None = None
    nearest: tuple[float, str] | None = None
    for match in matches([variable.name for variable in module.variables], shapes):
        if network is None or network.architecture != match.architecture:
            network = ResNetV2(match.architecture, initializer="zeros")
            graph = as_graph(network)
        originals = originals or {
            input_range: [module(in_range(some, input_range), False).numpy() for some in images]
            for input_range in INPUT_RANGES
        }
        arrays = _arrays(match, module)
        assign_arrays(network.arrays, arrays)
        with_head = module.features != network.features and f"{HEAD}kernel" in arrays
        outputs = [native_outputs(graph, arrays, some, with_head) for some in images]
        for input_range, answers in originals.items():
            differences = tuple(map(difference, outputs, answers))
            if np.max(differences) <= TOLERANCE:  # False for NaN, as Python's max is not
                with atomic_write(weights) as partial:
                    write_arrays(partial, arrays)
                return {
                    "features": match.architecture.features,
                    "parameters": match.architecture.parameters,
                    "depth": match.architecture.depth,
                    "width": match.architecture.width,
                    "weights": str(weights),
                    "matched_by": match.how,
                    "differences": differences,
                    "own_range": input_range,
                }, None
            nearest = min(filter(None, [nearest, (max(differences), str(match.architecture))]))
    if nearest is None:
        return None, None
    return None, f"its variables are those of {nearest[1]}, but its outputs differ by {nearest[0]:.1g} of the largest"


def _arrays(match: Match, module: SavedModule) -> dict[str, Floats]:
    arrays = {name: module.variables[index].numpy() for name, index in match.variables.items()}
    if (kernel := arrays.get(f"{HEAD}kernel")) is not None:
        arrays[f"{HEAD}kernel"] = kernel.reshape(1, 1, *kernel.shape[-2:])
    return arrays


def as_graph(network: ResNetV2) -> Callable[[Floats], tf.Tensor]:
    """The network as SavedModels run theirs, one graph for each size of images: the same bits when measured.

    Operation by operation, or in one graph for all sizes, rounding alone brings R152x4 with the golden figures'
    weights to 1e-4 of the largest; so does one unit in the last place of its images.
    """
    graph: Callable[[Floats], tf.Tensor] = tf.function(network, autograph=False)
    return graph


def native_outputs(
    graph: Callable[[Floats], tf.Tensor], arrays: Mapping[str, Floats], images: Floats, with_head: bool
) -> Floats:
    """What the native network says to images in [0, 1]: features, or logits by the head in `arrays`."""
    features: Floats = graph(2 * images - 1).numpy()
    if not with_head:
        return features
    logits: Floats = features @ arrays[f"{HEAD}kernel"][0, 0] + arrays[f"{HEAD}bias"]
    return logits


def difference(ours: Floats, original: Floats) -> float:
    """Largest difference, as a part of the original's largest value; infinite where shapes differ."""
    if ours.shape != original.shape:
        return float("inf")
    return float(np.abs(ours - original).max() / np.abs(original).max())


def _stated_range(module: SavedModule) -> InputRange | None:
    """What hyperrule's own exports say of themselves."""
    stated = getattr(module.module, "input_range", None)
    values = tuple(stated.numpy().tolist()) if isinstance(stated, tf.Variable) and stated.shape == [2] else None
    return next((known for known in INPUT_RANGES if known == values), None)


def _inlined(module: SavedModule, side: int, images: int | None = 1) -> tf.types.experimental.ConcreteFunction:
    """Inference as one graph, variables as constants."""
    call = tf.function(lambda images: module(images, False), autograph=False)
    return convert_variables_to_constants_v2(call.get_concrete_function(tf.TensorSpec([images, side, side, 3])))


def _float_operations(graph: tf.Graph) -> int:
    """TensorFlow's own count."""
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return int(tf.compat.v1.profiler.profile(graph, options=options).total_float_ops)


def _activation_elements(graph: tf.Graph) -> int:
    """Elements of everything that is computed from the images."""
    computed = [
        output.shape.num_elements() or 0
        for operation in graph.get_operations()
        if operation.type not in ("Const", "Identity", "Placeholder")
        for output in operation.outputs
        if output.dtype.is_floating and output.shape.rank == 4
    ]
    return sum(computed)


def _training_operations(module: SavedModule) -> set[str]:
    """Types of all operations of a training call."""
    call = tf.function(lambda images: module(images, True), autograph=False)
    side = module.side or COST_SIDE
    graph = call.get_concrete_function(tf.TensorSpec([1, side, side, 3])).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}


def _trains(module: SavedModule) -> bool:
    """Whether a gradient reaches any variable that the module says trains."""
    side = module.side or COST_SIDE
    with tf.GradientTape() as tape:
        # By inference: a training call would move statistics, and random numbers may lack the seed they need.
        total = tf.reduce_sum(module(photographs(side)[:1], False))
    return any(gradient is not None for gradient in tape.gradient(total, list(module.trainable_variables)))


def _deviations(module: SavedModule) -> tuple[tuple[InputRange, float], ...]:
    """For each candidate input range, how far the first batch norm sees the photographs' mean from the mean that
    it keeps of its training images, in standard deviations, averaged over channels; empty without batch norm."""
    inlined = _inlined(module, side := module.side or COST_SIDE, None)
    norm = next(_batch_norms(inlined.graph), None)
    if norm is None:
        return ()
    *tensors, epsilon = norm
    look = inlined.prune(inlined.inputs, tensors)
    found = []
    for input_range in INPUT_RANGES:
        x, mean, variance = (t.numpy() for t in look(tf.constant(in_range(photographs(side), input_range))))
        off = np.abs(x.mean(axis=(0, 1, 2)) - mean) / np.sqrt(variance + epsilon)
        found.append((input_range, float(off.mean())))
    return tuple(found)


def _batch_norms(graph: tf.Graph) -> Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor, float]]:
    """Input, kept mean, kept variance and epsilon of each batch norm, fused or as `tf.nn.batch_normalization`
    writes it: x * inv + (offset - mean * inv), inv = rsqrt(variance + epsilon) * scale."""
    for operation in graph.get_operations():
        if operation.type.startswith("FusedBatchNorm"):
            x, _, _, mean, variance = operation.inputs
            yield x, mean, variance, operation.get_attr("epsilon")
        elif operation.type == "Rsqrt" and operation.outputs[0].shape.rank == 1:
            inverse = operation.outputs[0]
            products = [use for use in inverse.consumers() if use.type == "Mul"]
            if len(products) == 1:
                inverse = products[0].outputs[0]
                products = [use for use in inverse.consumers() if use.type == "Mul"]
            factors = {factor.shape.rank: factor for use in products for factor in use.inputs if factor is not inverse}
            if factors.keys() == {1, 4}:
                yield factors[4], factors[1], operation.inputs[0], 0.0
