"""Small SavedModels as other people make them: BiTs with renamed variables, and networks other than BiT."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from conftest import golden_array
from sklearn.datasets import load_sample_images

from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.resnet_v2 import ResNetV2

R14, R26 = Architecture(14, 0.5), Architecture(26, 0.5)


class Module(tf.train.Checkpoint):
    """A module with the interface of TF2 Hub's reusable SavedModels."""

    def __init__(
        self,
        function: Callable[[tf.Tensor, bool], tf.Tensor],
        trainable: list[tf.Variable],
        others: tuple[tf.Variable, ...] = (),
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        self.variables = [*trainable, *others]
        self.trainable_variables = trainable
        self.regularization_losses = []
        for training in (False, True):
            self.__call__.get_concrete_function(tf.TensorSpec([None, side, side, 3]), training)

    @tf.function(autograph=False)
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.function(images, training)


def golden_arrays(architecture: Architecture = R14) -> dict[str, np.ndarray]:
    return {name: golden_array(name, shape) for name, shape in architecture.array_shapes.items()}


def save_bit(
    folder: Path,
    rename: Callable[[str], str],
    order: Callable[[list[str]], list[str]] = list,
    input_range: tuple[float, float] = (0, 1),
    after: Callable[[tf.Tensor], tf.Tensor] = lambda features: features,
) -> None:
    """Save R14x0.5 with the golden figures' weights, its variables named by `rename` and listed in `order`."""
    network = ResNetV2(R14)
    arrays = golden_arrays()
    variables = {}
    for name, variable in network.arrays.items():
        variables[name] = tf.Variable(arrays[name], name=rename(name))
        variable._value = variables[name]
    low, high = input_range

    @tf.function(autograph=False)
    def features(images: tf.Tensor) -> tf.Tensor:
        return after(network((images - low) / (high - low) * 2 - 1))

    one_graph = Module(lambda images, training: features(images), [variables[name] for name in order(list(variables))])
    tf.saved_model.save(one_graph, str(folder), signatures={})


class SmallNet:
    """Convolution, batch norm of the given form, ReLU, mean: images [N, H, W, 3] -> [N, 16].

    Its moving mean and variance are those of two real photographs with pixels in [0, 1].
    """

    def __init__(self, norm: str = "fused") -> None:
        rng = np.random.default_rng(0)
        self.norm = norm
        self.kernel = tf.Variable(rng.normal(0, 0.3, (5, 5, 3, 16)).astype(np.float32), name="conv/kernel")
        self.gamma = tf.Variable(np.ones(16, np.float32), name="bn/gamma")
        self.beta = tf.Variable(np.zeros(16, np.float32), name="bn/beta")
        photographs = np.stack(load_sample_images().images).astype(np.float32) / 255
        mean, variance = tf.nn.moments(tf.nn.conv2d(photographs, self.kernel, 4, "SAME"), [0, 1, 2])
        kept = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.MEAN}
        self.mean = tf.Variable(mean, name="bn/moving_mean", trainable=False, **kept)
        self.variance = tf.Variable(variance, name="bn/moving_variance", trainable=False, **kept)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = tf.nn.conv2d(images, self.kernel, 4, "SAME")
        if self.norm == "none":
            return tf.reduce_mean(tf.nn.relu(x + self.beta), [1, 2])
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
            self.variance.assign(0.9 * self.variance + 0.1 * variance)
        if self.norm == "fused" and not training:
            x, *_ = tf.compat.v1.nn.fused_batch_norm(
                x, self.gamma, self.beta, self.mean, self.variance, 1e-3, is_training=False
            )
        else:
            if not training:
                mean, variance = self.mean, self.variance
            x = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, 1e-3)
        return tf.reduce_mean(tf.nn.relu(x), [1, 2])

    @property
    def variables(self) -> list[tf.Variable]:
        return [self.kernel, self.gamma, self.beta, self.mean, self.variance]

    def save(self, folder: Path, *, side: int | None = None, penalty: float = 0.0) -> None:
        module = Module(self, [self.kernel, self.gamma, self.beta], (self.mean, self.variance), side)
        if penalty:
            module.regularization_losses = [
                tf.function(lambda: penalty * tf.nn.l2_loss(self.kernel), input_signature=[])
            ]
        tf.saved_model.save(module, str(folder))
