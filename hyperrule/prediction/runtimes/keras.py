"""Keras 3: a .keras file of its own layers, with hyperrule.json in the archive."""

import json
import zipfile
from collections.abc import Callable

import keras
import numpy as np


def load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    model = keras.models.load_model(path)
    return lambda images: model.predict_on_batch(images)


def class_names(path: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return list(json.loads(archive.read("hyperrule.json"))["class_names"])
