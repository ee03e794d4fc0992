"""The SavedModel: encoded images in, label, score and probabilities out; needs TensorFlow only."""

from pathlib import Path

import tensorflow as tf

from hyperrule.data.preprocess import for_evaluation, resize
from hyperrule.exporting.card import Card
from hyperrule.exporting.classifier_module import ClassifierModule, write_card
from hyperrule.exporting.warmup import WARMUP_FILE, write_warmup
from hyperrule.training.classifier import Classifier


class Serving(ClassifierModule):
    """Signatures over a classifier made for inference; as a module, it is the classifier's backbone.

    `serving_default`: image_bytes string [N], each a JPEG, PNG, GIF, BMP or WebP of any size.
    `images`: images uint8 [N, height, width, 3], 0-255, any height and width.
    Both return label string [N], score float32 [N] (the label's probability), calibrated probabilities
    float32 [N, classes], and class_names string [N, classes], the same in every row.
    """

    def __init__(self, classifier: Classifier, card: Card, labels_file: Path) -> None:
        super().__init__(classifier, card)
        self.resized = card.size
        self.class_names = tf.constant(card.class_names)
        self.labels = tf.saved_model.Asset(str(labels_file))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def classify_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.TensorSpec([self.resized, self.resized, 3], tf.float32)
        return self._classify(
            tf.map_fn(lambda encoded: for_evaluation(encoded, self.resized), image_bytes, fn_output_signature=pixels)
        )

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def classify_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._classify(resize(images, self.resized))

    def _classify(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = self.probabilities(images)
        batch = tf.shape(probabilities)[0]
        return {
            "label": tf.gather(self.class_names, tf.argmax(probabilities, axis=1)),
            "score": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
            "class_names": tf.tile(self.class_names[tf.newaxis], [batch, 1]),
        }


def export_saved_model(classifier: Classifier, card: Card, folder: Path) -> None:
    """Save the folded classifier to `folder` (made, with parents), with assets/labels.txt, a class a line, and
    in assets.extra/ hyperrule.json, the card, and tf_serving_warmup_requests."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    labels_file = folder.parent / "labels.txt"
    labels_file.write_text("".join(f"{name}\n" for name in card.class_names), encoding="utf-8")
    serving = Serving(classifier, card, labels_file)
    signatures = {"serving_default": serving.classify_bytes, "images": serving.classify_images}
    tf.saved_model.save(serving, str(folder), signatures=signatures)
    labels_file.unlink()
    write_card(card, folder)
    write_warmup(folder / "assets.extra" / WARMUP_FILE)
