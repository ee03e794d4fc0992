"""Encoded images into tf.data by their numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.contents import Contents, Files, Indices

AT_ONCE = 32  # images read by one call from TensorFlow into Python, which costs as much as reading several small ones


def load_images(
    contents: Contents,
    dataset: tf.data.Dataset,
    number_of: Callable[..., tf.Tensor],
    load: Callable[..., Any],
) -> tf.data.Dataset:
    """`load(encoded, number, *element)` for each element of `dataset`, in order and on all cores: the encoded image
    (scalar string) of the number that `number_of(*element)` gives (both scalar int64).

    Files are read by TensorFlow; all else in Python, where what cannot be read becomes an empty image, so that the
    others of its batch are not lost. Raises, while it is iterated, OpErrors for files and of `load`.
    """
    if isinstance(contents, Files):
        paths = tf.constant(contents.paths())

        def read_and_load(*element: tf.Tensor) -> Any:
            number = number_of(*element)
            return load(tf.io.read_file(paths[number]), number, *element)

        # All in one map: small images take less time than from one stage of tf.data to the next.
        return dataset.map(read_and_load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    numbered = dataset.map(lambda *element: (number_of(*element), *element))
    return _with_images(contents, numbered).map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _with_images(contents: Contents, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The elements, which start with a number, each after the encoded image of that number."""

    def read(numbers: Indices) -> npt.NDArray[np.object_]:
        return np.array([_read(contents, index) for index in numbers.tolist()], dtype=object)

    def with_images(numbers: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Not stateful, so that it may run ahead in parallel although operations are deterministic.
        encoded = tf.numpy_function(read, [numbers], tf.string, stateful=False)
        return tf.ensure_shape(encoded, [None]), numbers, *others

    batches = dataset.batch(AT_ONCE)
    return batches.map(with_images, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()


def _read(contents: Contents, index: int) -> bytes:
    try:
        return contents[index]
    except OSError:
        return b""
