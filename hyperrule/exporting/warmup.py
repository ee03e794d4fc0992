"""Warm-up requests, which TensorFlow Serving answers before it says that a model is there, so that no real one waits
for what is made at first use (https://www.tensorflow.org/tfx/serving/saved_model_warmup).

Their messages come with the package tensorflow-serving-api, which nothing else here needs; these are a few fields,
numbered as in tensorflow_serving/apis/{prediction_log,predict,model}.proto.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

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
