"""What every backbone is to the rest of the house, native network or foreign graph."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import keras
import tensorflow as tf

from hyperrule.backbones.bit.layers import StandardizedConv2D


class Backbone(keras.Model):
    """Images [N, H, W, 3] in the backbone's own input range -> float32 features [N, `features`].

    Called as `backbone(images, training=False)`. `arrays` are all variables of its state, by name; those that train
    have `trainable` set. `side` is the only image side in pixels that it takes, None for any.
    `uses_training_argument` says that `training` makes a difference. `resources` is what an export has to carry besides
    the variables, such as tables.
    """

    features: int
    side: int | None = None
    uses_training_argument = False
    resources: tf.train.Checkpoint | None = None

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        raise AttributeError("every backbone has its own")

    @property
    def convolutions(self) -> list[StandardizedConv2D]:
        """Convolutions whose kernels are standardised, once a training step."""
        return []

    @property
    def regularizers(self) -> Sequence[Callable[[], tf.Tensor]]:
        """Functions that each return a scalar to be added to the loss, once a step."""
        return ()

    @property
    def trainable_arrays(self) -> Iterable[keras.Variable]:
        """Those of the arrays that can train, whatever `train_part` has frozen."""
        return self.arrays.values()

    def train_part(self, part: str) -> None:
        """Let only a part of the variables train: all of them ("full") or none ("head")."""
        self.trainable = part == "full"

    def for_inference(self) -> Self:
        """What evaluation and export run: float32, without anything that only training needs."""
        return self


@contextmanager
def using_kernels(convolutions: Sequence[StandardizedConv2D], kernels: Sequence[tf.Tensor]) -> Iterator[None]:
    """Within the block, the convolutions use `kernels`, already standardised, and do not standardise their own."""
    former = [conv.kernel_in_use for conv in convolutions]
    for conv, kernel in zip(convolutions, kernels, strict=True):
        conv.kernel_in_use = kernel
    try:
        yield
    finally:
        for conv, kernel in zip(convolutions, former, strict=True):
            conv.kernel_in_use = kernel
