"""A classifier in the form of TF2 Hub modules: called, it gives features and trains; `probabilities` classifies."""

from pathlib import Path

import tensorflow as tf

from hyperrule.exporting.card import CARD_FILE, Card
from hyperrule.exporting.hub_form import HubForm
from hyperrule.training.classifier import Classifier


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
