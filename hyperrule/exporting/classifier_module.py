"""A classifier in the form of TF2 Hub modules: called, it gives features and trains; `probabilities` classifies.

A backbone or classifier in the form of TF2 Hub modules, which `hub.load`, `hub.KerasLayer` and
`--backbone` take (https://www.tensorflow.org/hub/reusable_saved_models).
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import tensorflow as tf

from hyperrule.backbones.info import InputRange
from hyperrule.prediction.card import CARD_FILE, Card
from hyperrule.training.classifier import Classifier


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


class ClassifierModule(HubForm):
    """`module(images, training)`: float32 [N, H, W, 3] in [0, 1] -> features; `module.probabilities(images)`, of
    images resized to S x S -> calibrated probabilities float32 [N, classes]."""

    def __init__(self, classifier: Classifier, card: Card) -> None:
        backbone = classifier.backbone
        super().__init__(
            classifier.features,
            backbone.arrays.values(),
            backbone.trainable_arrays,
            backbone.regularizers,
            (0, 1),
            backbone.side,
            backbone.heeds_training,
        )
        # Not the classifier itself, or every variable would be saved twice: as Keras' and as TensorFlow's.
        self.resources = backbone.resources
        self.head = [classifier.head.kernel.value, classifier.head.bias.value]
        self.temperature = card.temperature
        images = tf.TensorSpec([None, backbone.side, backbone.side, 3], tf.float32, name="images")
        self.probabilities = tf.function(self._probabilities, input_signature=[images], autograph=False)

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        kernel, bias = self.head
        return tf.nn.softmax((self.infer(images) @ kernel + bias) / self.temperature)


def export_module(classifier: Classifier, card: Card, folder: Path) -> None:
    """Save a classifier whose kernels are as they train, not folded."""
    module = ClassifierModule(classifier, card)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)  # GroupNorm's, or it would not train
    tf.saved_model.save(module, str(folder), signatures={}, options=options)
    write_card(card, folder)


def write_card(card: Card, folder: Path) -> None:
    """Into the SavedModel, as assets.extra/hyperrule.json."""
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
