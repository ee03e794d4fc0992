"""A backbone or classifier in the form of TF2 Hub modules, which `hub.load`, `hub.KerasLayer` and
`--backbone` take (https://www.tensorflow.org/hub/reusable_saved_models)."""

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from hyperrule.backbones.input_range import InputRange


class HubForm(tf.train.Checkpoint):
    """`module(images, training=False)`: images float32 [N, H, W, 3] in `input_range` -> float32 [N, outputs].

    `variables`, `trainable_variables` and `regularization_losses` are those of hub modules; `input_range`
    (float32 [2]) is hyperrule's own, for whoever asks. `side` is the one image side it takes, None for any.
    Where `function` does not heed `training`, both of its calls are one graph: half the tracing and loading.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor, bool], tf.Tensor],
        variables: Iterable[keras.Variable],
        trainable: Iterable[keras.Variable],
        regularizers: Iterable[Callable[[], tf.Tensor]],
        input_range: InputRange,
        side: int | None = None,
        heeds_training: bool = True,
    ) -> None:
        super().__init__()
        one_graph = tf.function(lambda images: function(images, False), autograph=False)
        self._function = function if heeds_training else lambda images, training: one_graph(images)
        self.variables = [variable.value for variable in variables]
        self.trainable_variables = [variable.value for variable in trainable]
        self.regularization_losses = list(regularizers)
        self.input_range = tf.Variable(input_range, trainable=False, dtype=tf.float32)
        images = tf.TensorSpec([None, side, side, 3], tf.float32, name="images")
        self.infer, _ = (self.__call__.get_concrete_function(images, training) for training in (False, True))

    @tf.function(autograph=False)
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._function(images, training)
