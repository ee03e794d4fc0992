"""TensorFlow: a SavedModel with `probabilities(images)`, as `hyperrule export` writes for saved_model and module."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf


def load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    model = tf.saved_model.load(path)
    return lambda images: model.probabilities(tf.constant(images)).numpy()


def load_encoded(path: str) -> Callable[[Sequence[bytes]], np.ndarray]:
    """Encoded images -> probabilities, by the signature serving_default."""
    classify = tf.saved_model.load(path).signatures["serving_default"]
    return lambda encoded: classify(image_bytes=tf.constant(encoded))["probabilities"].numpy()


def class_names(path: str) -> list[str]:
    card = Path(path, "assets.extra", "hyperrule.json").read_text(encoding="utf-8")
    return list(json.loads(card)["class_names"])
