"""Exports as SavedModels, which need TensorFlow only.

- `HubForm`: a network as a reusable TF2 Hub module, which `hub.load`, `hub.KerasLayer` and `--backbone` take
  (https://www.tensorflow.org/hub/reusable_saved_models).
- `export_module`: a classifier in that form. Called, it returns features and can be trained; `probabilities`
  classifies.
- `export_saved_model`: a classifier with signatures for serving, from encoded images to label, score and
  probabilities. It includes warm-up requests, which TensorFlow Serving answers before it reports the model as
  available, so that no real request waits for first-use initialisation
  (https://www.tensorflow.org/tfx/serving/saved_model_warmup).

The protocol messages of warm-up requests are encoded by hand, to spare the package tensorflow-serving-api. Their field
numbers are those of tensorflow_serving/apis/{prediction_log,predict,model}.proto.
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

WARMUP_FILE = "tf_serving_warmup_requests"  # the name that the server looks for in assets.extra
WARMUP_BATCHES = (1, 8)  # of encoded images: the first larger batch allocates memory anew
WARMUP_SIDE = 64  # pixels, of the image in all requests


class HubForm(tf.train.Checkpoint):
    """`module(images, training=False)`: images float32 [N, H, W, 3] in `input_range` -> float32 [N, outputs].

    `variables`, `trainable_variables` and `regularization_losses` are the attributes of hub modules; `input_range`
    (float32 [2]) is hyperrule's addition. `side` is the only image side in pixels that it takes, None for any.
    `heeds_training` says whether `function` depends on `training`; if not, both calls share one graph, which halves
    tracing and loading.
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
    """A classifier as a hub module.

    `module(images, training)`: images float32 [N, H, W, 3] in [0, 1] -> features float32 [N, width].
    `module.probabilities(images)`: images resized to S x S -> calibrated probabilities float32 [N, classes].
    """

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
    """Save a classifier as a trainable module; its kernels must not be folded."""
    module = ClassifierModule(classifier, card)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)  # GroupNorm's, or it would not train
    tf.saved_model.save(module, str(folder), signatures={}, options=options)
    write_card(card, folder)


def write_card(card: Card, folder: Path) -> None:
    """Write the card into the SavedModel in `folder`, as assets.extra/hyperrule.json."""
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Serving(ClassifierModule):
    """A folded classifier with signatures for serving. Called as a module, it returns features.

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
    """Save the folded classifier to `folder`, which is created with its parents.

    assets/labels.txt holds one class name a line; assets.extra/ holds the card, hyperrule.json, and
    tf_serving_warmup_requests.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    labels_file = folder.parent / "labels.txt"
    labels_file.write_text("".join(f"{name}\n" for name in card.class_names), encoding="utf-8")
    serving = Serving(classifier, card, labels_file)
    signatures = {"serving_default": serving.classify_bytes, "images": serving.classify_images}
    tf.saved_model.save(serving, str(folder), signatures=signatures)
    labels_file.unlink()
    write_card(card, folder)
    write_warmup(folder / "assets.extra" / WARMUP_FILE)


def write_warmup(path: Path) -> None:
    """Write requests to both signatures, with a grey image, as a TFRecord file of PredictionLog messages."""
    image = np.full((WARMUP_SIDE, WARMUP_SIDE, 3), 128, dtype=np.uint8)
    encoded = tf.io.encode_jpeg(image).numpy()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in WARMUP_BATCHES:
            writer.write(_prediction_log("serving_default", "image_bytes", tf.make_tensor_proto([encoded] * batch)))
        writer.write(_prediction_log("images", "images", tf.make_tensor_proto(image[np.newaxis])))


def _prediction_log(signature: str, name: str, tensor: Any) -> bytes:
    model_spec = _field(3, signature.encode())  # ModelSpec.signature_name
    entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())  # the key and value of a map
    request = _field(1, model_spec) + _field(2, entry)  # PredictRequest.model_spec, .inputs
    return _field(6, _field(1, request))  # PredictionLog.predict_log, PredictLog.request


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field: number and wire type 2, length, content.

    See https://protobuf.dev/programming-guides/encoding.
    """
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Encode an integer in seven bits a byte, the lowest first; the eighth bit says that more bytes follow."""
    higher, lowest = divmod(value, 128)
    return bytes([lowest]) if higher == 0 else bytes([lowest | 128]) + _varint(higher)
