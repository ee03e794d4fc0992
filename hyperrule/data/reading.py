"""Encoded images into tf.data by their numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.contents import Contents, Files, Indices

AT_ONCE = 32  # images read by one call from TensorFlow into Python, which costs as much as reading several small ones


def read_images(contents: Contents, dataset: tf.data.Dataset, number_of: Callable[..., tf.Tensor]) -> tf.data.Dataset:
    """The elements of `dataset`, each with the encoded image (scalar string) of the number that `number_of` finds
    in it (scalar int64), in order: (encoded, *element).

    Files are read by TensorFlow, in parallel; all else in Python, where what cannot be read becomes an empty image,
    so that the others of its batch are not lost. Raises, while it is iterated, OpErrors for files.
    """
    if isinstance(contents, Files):
        paths = tf.constant(contents.paths())
        return dataset.map(
            lambda *element: (tf.io.read_file(paths[number_of(*element)]), *element),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def read(numbers: Indices) -> npt.NDArray[np.object_]:
        return np.array([_read(contents, index) for index in numbers.tolist()], dtype=object)

    def with_images(*elements: Any) -> tuple[Any, ...]:
        # Not stateful, so that it may run ahead in parallel although operations are deterministic.
        encoded = tf.numpy_function(read, [number_of(*elements)], tf.string, stateful=False)
        return tf.ensure_shape(encoded, [None]), *elements

    batches = dataset.batch(AT_ONCE)
    return batches.map(with_images, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()


def _read(contents: Contents, index: int) -> bytes:
    try:
        return contents[index]
    except OSError:
        return b""
