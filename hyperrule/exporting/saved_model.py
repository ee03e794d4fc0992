"""The SavedModel: encoded images in, label, score and probabilities out; needs TensorFlow only.

Warm-up requests, which TensorFlow Serving answers before it says that a model is there, so that no real one waits
for what is made at first use (https://www.tensorflow.org/tfx/serving/saved_model_warmup).

Their messages come with the package tensorflow-serving-api, which nothing else here needs; these are a few fields,
numbered as in tensorflow_serving/apis/{prediction_log,predict,model}.proto.

A classifier in the form of TF2 Hub modules: called, it gives features and trains; `probabilities` classifies.

A backbone or classifier in the form of TF2 Hub modules, which `hub.load`, `hub.KerasLayer` and
`--backbone` take (https://www.tensorflow.org/hub/reusable_saved_models).
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hyperrule.backbones.info import InputRange
from hyperrule.data.preprocess import for_evaluation, resize
from hyperrule.prediction.formats import CARD_FILE, Card
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
        uses_training_argument: bool = True,
    ) -> None:
        super().__init__()
        one_graph = tf.function(lambda images: function(images, False), autograph=False)
        self._function = function if uses_training_argument else lambda images, training: one_graph(images)
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
            backbone.uses_training_argument,
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


WARMUP_FILE = "tf_serving_warmup_requests"  # the name that the server looks for in assets.extra
BATCHES = (1, 8)  # of encoded images: memory is laid out anew for a larger batch
SIDE = 64  # in pixels, of the image in all requests


def write_warmup(path: Path) -> None:
    """Requests to both signatures, of a grey image, as a TFRecord of PredictionLog messages."""
    image = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    encoded = tf.io.encode_jpeg(image).numpy()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in BATCHES:
            writer.write(_prediction_log("serving_default", "image_bytes", tf.make_tensor_proto([encoded] * batch)))
        writer.write(_prediction_log("images", "images", tf.make_tensor_proto(image[np.newaxis])))


def _prediction_log(signature: str, name: str, tensor: Any) -> bytes:
    model_spec = _field(3, signature.encode())  # ModelSpec.signature_name
    entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())  # the key and value of a map
    request = _field(1, model_spec) + _field(2, entry)  # PredictRequest.model_spec, .inputs
    return _field(6, _field(1, request))  # PredictionLog.predict_log, PredictLog.request


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field (https://protobuf.dev/programming-guides/encoding): its number and wire type 2, its
    length, itself."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    higher, lowest = divmod(value, 128)
    return bytes([lowest]) if higher == 0 else bytes([lowest | 128]) + _varint(higher)
