"""LiteRT (formerly TensorFlow Lite): a .tflite file, which is also a zip with hyperrule.json in it."""

import json
import os
import zipfile
from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    interpreter = Interpreter(model_path=path, num_threads=len(os.sched_getaffinity(0)))
    (images,) = interpreter.get_input_details()
    (probabilities,) = interpreter.get_output_details()
    shape: list[tuple[int, ...]] = []

    def answer(batch: np.ndarray) -> np.ndarray:
        if shape != [batch.shape]:
            interpreter.resize_tensor_input(images["index"], batch.shape)
            interpreter.allocate_tensors()
            shape[:] = [batch.shape]
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        found: np.ndarray = interpreter.get_tensor(probabilities["index"])
        return found

    return answer


def class_names(path: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return list(json.loads(archive.read("hyperrule.json"))["class_names"])
