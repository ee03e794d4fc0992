"""ONNX Runtime: a .onnx file with hyperrule.json among its metadata."""

import json
from collections.abc import Callable

import numpy as np
import onnxruntime


def load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    session = _session(path)
    (images,) = session.get_inputs()
    return lambda batch: session.run(["probabilities"], {images.name: batch})[0]


def class_names(path: str) -> list[str]:
    return list(json.loads(_session(path).get_modelmeta().custom_metadata_map["hyperrule"])["class_names"])


def _session(path: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
