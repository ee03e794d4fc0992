"""`Backbone`: the interface of every backbone, be it a native network or an opaque graph."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import keras
import numpy as np
import tensorflow as tf

from hyperrule.backbones.bit.layers import StandardizedConv2D


class Backbone(keras.Model):
    """Images float32 [N, H, W, 3] in the backbone's own input range -> features float32 [N, `features`].

    Called as `backbone(images, training=False)`. `arrays` are all variables of its state, by name; those that train
    have `trainable` set. `side` is the only image side in pixels that it takes, None for any.
    `uses_training_argument` says whether outputs depend on `training`. `resources` are objects that an export needs
    besides the variables, such as tables.
    """

    features: int
    side: int | None = None
    uses_training_argument = False
    resources: tf.train.Checkpoint | None = None

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        raise AttributeError("every subclass must define arrays")

    @property
    def convolutions(self) -> list[StandardizedConv2D]:
        """Convolutions whose kernels are standardised (once in a training step)."""
        return []

    @property
    def regularizers(self) -> Sequence[Callable[[], tf.Tensor]]:
        """Functions that each return a scalar regularisation loss, to be added once a step."""
        return ()

    @property
    def trainable_arrays(self) -> Iterable[keras.Variable]:
        """The arrays that can be trained, including those that `train_part` has frozen."""
        return self.arrays.values()

    def train_part(self, part: str) -> None:
        """Choose the variables that train: all of them ("full") or none ("head")."""
        self.trainable = part == "full"

    def for_inference(self) -> Self:
        """Return the network for evaluation and export: float32, without anything that only training needs."""
        return self


def assign_arrays(variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Give each variable the array of its name, whose number of elements must fit; other arrays are ignored."""
    for name, variable in variables.items():
        variable.assign(arrays[name].reshape(variable.shape))


@contextmanager
def using_kernels(convolutions: Sequence[StandardizedConv2D], kernels: Sequence[tf.Tensor]) -> Iterator[None]:
    """Within the block, the convolutions use `kernels`, which are already standardised, instead of their own."""
    former = [conv.kernel_in_use for conv in convolutions]
    for conv, kernel in zip(convolutions, kernels, strict=True):
        conv.kernel_in_use = kernel
    try:
        yield
    finally:
        for conv, kernel in zip(convolutions, former, strict=True):
            conv.kernel_in_use = kernel
