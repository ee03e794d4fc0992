"""Runs exports without hyperrule: each function imports one runtime and NumPy only.

As a script, in a fresh process, this file runs an export over images and times it:

    python runtimes.py RUNTIME MODEL IMAGES THREADS OUTPUT.npz

IMAGES is a .npy of float32 [N, S, S, 3] in [0, 1], or a folder of encoded images.
"""

import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BATCH = 32
SINGLE = 20  # images that are timed one by one


class Export(NamedTuple):
    """A loaded export: the class names in the file, and functions that return probabilities, float32 [N, classes].

    `classify` takes images, float32 [N, S, S, 3] in [0, 1]. `classify_encoded` takes N encoded images; it is None if
    the format does not decode.
    """

    class_names: list[str]
    classify: Callable[[np.ndarray], np.ndarray]
    classify_encoded: Callable[[Sequence[bytes]], np.ndarray] | None = None


def keras(path: str, threads: int) -> Export:
    """Keras 3: a .keras file of built-in layers, with hyperrule.json in the archive."""
    import keras

    model = keras.models.load_model(path)
    return Export(_zipped_class_names(path), lambda images: model.predict_on_batch(images))


def litert(path: str, threads: int) -> Export:
    """LiteRT (formerly TensorFlow Lite): a .tflite file, which is also a zip with hyperrule.json in it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    (images,) = interpreter.get_input_details()
    (probabilities,) = interpreter.get_output_details()
    shape: list[tuple[int, ...]] = []

    def classify(batch: np.ndarray) -> np.ndarray:
        if shape != [batch.shape]:
            interpreter.resize_tensor_input(images["index"], batch.shape)
            interpreter.allocate_tensors()
            shape[:] = [batch.shape]
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        found: np.ndarray = interpreter.get_tensor(probabilities["index"])
        return found

    return Export(_zipped_class_names(path), classify)


def onnx(path: str, threads: int) -> Export:
    """ONNX Runtime: a .onnx file with hyperrule.json among its metadata."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    (images,) = session.get_inputs()
    card = json.loads(session.get_modelmeta().custom_metadata_map["hyperrule"])
    return Export(list(card["class_names"]), lambda batch: session.run(["probabilities"], {images.name: batch})[0])


def saved_model(path: str, threads: int) -> Export:
    """TensorFlow: a SavedModel with `probabilities(images)`, exported as saved_model or module.

    Only saved_model has the signature serving_default, which decodes images.
    """
    import tensorflow as tf

    model = tf.saved_model.load(path)
    card = json.loads(Path(path, "assets.extra", "hyperrule.json").read_text(encoding="utf-8"))
    classify = model.signatures.get("serving_default")
    return Export(
        list(card["class_names"]),
        lambda images: model.probabilities(tf.constant(images)).numpy(),
        lambda encoded: classify(image_bytes=tf.constant(encoded))["probabilities"].numpy(),
    )


RUNTIMES: dict[str, Callable[[str, int], Export]] = {
    "keras": keras,
    "litert": litert,
    "onnx": onnx,
    "saved_model": saved_model,
}


def main(runtime: str, model: str, images: str, threads: str, output: str) -> None:
    """Write probabilities, class names and times to `output`."""
    export = RUNTIMES[runtime](model, int(threads))
    classify: Callable[[Any], np.ndarray] = export.classify
    inputs: Any
    if images.endswith(".npy"):
        inputs = np.load(images, mmap_mode="r")
        parts = [np.ascontiguousarray(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]
    else:
        assert export.classify_encoded is not None
        classify = export.classify_encoded
        inputs = [path.read_bytes() for path in sorted(Path(images).iterdir())]
        parts = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
    classify(parts[0])  # compiles
    start = time.perf_counter()
    probabilities = np.concatenate([classify(part) for part in parts])
    seconds = time.perf_counter() - start
    single = [_seconds(classify, inputs[index : index + 1]) for index in range(min(SINGLE, len(inputs)))]
    np.savez(
        output,
        probabilities=probabilities,
        class_names=np.array(export.class_names),
        images_per_second=len(probabilities) / seconds,
        latency_ms=1000 * np.median(single[1:] or single),  # the first compiles
    )


def _zipped_class_names(path: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return list(json.loads(archive.read("hyperrule.json"))["class_names"])


def _seconds(classify: Callable[[Any], np.ndarray], images: Any) -> float:
    start = time.perf_counter()
    classify(images)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
