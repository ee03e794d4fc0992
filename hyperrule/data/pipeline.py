"""tf.data pipelines that stream micro-batches for training and evaluation.

All randomness is a function of (seed, position), where position counts the examples sampled since step 0. So a run that
resumes at step k starts at position k x batch without replaying, and order, augmentation and mixup do not depend on the
micro-batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.decode import decode
from hyperrule.data.images import EncodedImages, Examples, Files, Indices
from hyperrule.data.preprocess import Augmentation, InceptionAugmentation, for_evaluation
from hyperrule.data.selection import Shard
from hyperrule.recipe import Balance

WHOLE = Shard()
AT_ONCE = 32  # images per call into Python, which costs as much as reading several small ones
CLASS_STREAM = 1 << 40  # added to seed and class number, so that every class is shuffled differently


class MicroBatch(NamedTuple):
    """images float32 [M, crop, crop, 3] in [0, 1]; targets float32 [M, classes], rows sum to 1;
    weights float32 [M]: 0 for padding rows of the last micro-batch, else 1 or the weight that balances classes."""

    images: tf.Tensor
    targets: tf.Tensor
    weights: tf.Tensor


def training_batches(
    examples: Examples,
    classes: int,
    augmentation: Augmentation | InceptionAugmentation,
    batch: int,
    micro_batch: int,
    steps: range,
    seed: int,
    balance: Balance = "none",
    shard: Shard = WHOLE,
    shares: Sequence[int] | None = None,
) -> tf.data.Dataset:
    """Stream micro-batches of the given steps in order: `shard.rounds(batch, micro_batch)` per step and device.

    Step k samples positions k x batch to (k + 1) x batch - 1, of which the shard takes its part; each pass over the
    data has a different order. Mixup blends position i with i + 1 (a step's last with its first), with one lambda per
    step.

    `balance` "sampler" samples every class equally often; "loss" gives every example the weight n / (classes x images
    of its class). `shares` says how often each class is sampled per round of sum(shares); it excludes "sampler".
    """
    if balance == "sampler":
        shares = [1] * classes
    draw = _order(len(examples), seed) if shares is None else _shared_order(examples.labels, shares, seed)
    labels = tf.constant(examples.labels)
    counts = np.maximum(np.bincount(examples.labels, minlength=classes), 1)
    class_weights = tf.constant(len(examples) / (classes * counts), tf.float32)

    # Rows past the shard's part pad the last micro-batch, with weight 0. Mixup reads one more example, the last one's
    # partner.
    part = shard.part(batch)
    rows = shard.rows(batch, micro_batch) + (1 if augmentation.mixup else 0)

    def position_of(index: tf.Tensor) -> tf.Tensor:
        return index // rows * batch + (part.start + index % rows) % batch

    def load(encoded: tf.Tensor, example: tf.Tensor, index: tf.Tensor) -> MicroBatch:
        image = augmentation(encoded, tf.stack([np.int64(seed), position_of(index)]))
        return MicroBatch(image, tf.one_hot(labels[example], classes), tf.cast(index % rows < len(part), tf.float32))

    def blend(
        previous: MicroBatch, current: tuple[tf.Tensor, MicroBatch]
    ) -> tuple[MicroBatch, tuple[tf.Tensor, MicroBatch]]:
        """Mix `previous` with its successor; the result keeps the weight of `previous`."""
        index, example = current
        mixing = _beta(augmentation.mixup, tf.stack([np.int64(seed), index // rows]))
        image = mixing * previous.images + (1 - mixing) * example.images
        target = mixing * previous.targets + (1 - mixing) * example.targets
        return example, (index, MicroBatch(image, target, previous.weights))

    def weigh(example: MicroBatch) -> MicroBatch:
        return example._replace(weights=example.weights * tf.tensordot(example.targets, class_weights, 1))

    first = steps.start * rows
    indices = tf.data.Dataset.range(first, steps.stop * rows)
    dataset = load_images(examples.contents, indices, lambda index: draw(position_of(index)), load)
    if augmentation.mixup:
        shape = [augmentation.crop, augmentation.crop, 3]
        nothing = MicroBatch(tf.zeros(shape), tf.zeros([classes]), tf.constant(0.0))
        # The first pair of each step straddles two steps and is dropped.
        pairs = dataset.enumerate(first).scan(nothing, blend).filter(lambda index, _: index % rows > 0)
        dataset = pairs.map(lambda _, example: example)
    if balance == "loss":
        dataset = dataset.map(weigh)
    return dataset.batch(micro_batch, drop_remainder=True).prefetch(2)


def evaluation_batches(
    examples: Examples, classes: int, crop: int, micro_batch: int, shard: Shard = WHOLE
) -> tf.data.Dataset:
    """Stream every example of the shard's part once, in order, as micro-batches; padding rows have weight 0."""
    labels = tf.constant(examples.labels)
    part = shard.part(len(examples))

    def load(encoded: tf.Tensor, example: tf.Tensor, index: tf.Tensor) -> MicroBatch:
        weight = tf.cast(index < part.stop, tf.float32)
        return MicroBatch(for_evaluation(encoded, crop), tf.one_hot(labels[example], classes), weight)

    indices = tf.data.Dataset.range(part.start, part.start + shard.rows(len(examples), micro_batch))
    dataset = load_images(examples.contents, indices, lambda index: tf.minimum(index, len(examples) - 1), load)
    return dataset.batch(micro_batch, drop_remainder=True).prefetch(2)


def undecodable(examples: Examples) -> list[str]:
    """Decode every image on all cores; return the ids of those that cannot be read or decoded."""
    survivors = _decodable(examples.contents, lambda encoded: tf.shape(decode(encoded)))
    good = {int(index) for index, _ in survivors.as_numpy_iterator()}
    return [example for index, example in enumerate(examples.ids) if index not in good]


def decodable_batches(contents: EncodedImages, crop: int, micro_batch: int) -> tf.data.Dataset:
    """Every image that can be decoded once, in order, prepared as `evaluation_batches` does: numbers int64 [M], and
    images float32 [M, crop, crop, 3] in [0, 1]. The last micro-batch may be smaller; nothing pads it."""
    return _decodable(contents, lambda encoded: for_evaluation(encoded, crop)).batch(micro_batch).prefetch(2)


def _decodable(contents: EncodedImages, prepare: Callable[[tf.Tensor], tf.Tensor]) -> tf.data.Dataset:
    """Number and `prepare(encoded)` of every image for which that does not fail, in order."""

    def load(encoded: tf.Tensor, number: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return number, prepare(encoded)

    return load_images(contents, tf.data.Dataset.range(len(contents)), lambda index: index, load).ignore_errors()


def _order(count: int, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a map from a position to an example's number: every pass visits all examples, in a different order."""

    def draw(position: tf.Tensor) -> tf.Tensor:
        return _shuffled(position % count, count, tf.stack([np.int64(seed), position // count]))

    return draw


def _shared_order(labels: npt.NDArray[np.int32], shares: Sequence[int], seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a map from a position to an example's number: each round samples every class as often as its share; each
    class has its own passes."""
    by_class = tf.constant(np.argsort(labels, kind="stable"))
    counts = np.bincount(labels, minlength=len(shares))
    sizes, starts = tf.constant(counts), tf.constant(np.cumsum(counts) - counts)
    in_a_round, turns = sum(shares), tf.constant(shares, tf.int64)
    class_of = tf.constant(np.repeat(np.arange(len(shares)), shares))  # of every place in a round
    place_in_class = tf.constant(np.concatenate([np.arange(share) for share in shares]))

    def draw(position: tf.Tensor) -> tf.Tensor:
        round_number = position // in_a_round
        place = _shuffled(position % in_a_round, in_a_round, tf.stack([np.int64(seed), round_number]))
        label = class_of[place]
        size = sizes[label]
        turn = round_number * turns[label] + place_in_class[place]
        passes = tf.stack([seed + CLASS_STREAM + label, turn // size])
        return by_class[starts[label] + _shuffled(turn % size, size, passes)]

    return draw


def _shuffled(index: tf.Tensor, count: tf.Tensor | int, seed: tf.Tensor) -> tf.Tensor:
    """Return the position of `index` in a permutation of `count` numbers that is a function of the seed (int64 [2]).

    It is computed per element: the permutation is never held in memory.
    """
    largest = tf.cast(count, tf.int64) - 1
    return tf.random.experimental.index_shuffle(index, seed=seed, max_index=largest)


def _beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Sample Beta(alpha, alpha) as a function of the seed (int64 [2]): a float32 scalar."""
    gammas = tf.random.stateless_gamma([2], seed, alpha)
    return gammas[0] / tf.reduce_sum(gammas)


def load_images(
    contents: EncodedImages,
    dataset: tf.data.Dataset,
    number_of: Callable[..., tf.Tensor],
    load: Callable[..., Any],
) -> tf.data.Dataset:
    """Map every element of `dataset` to `load(encoded, number, *element)`, in order and on all cores.

    `number = number_of(*element)` (int64 scalar) selects the image; `encoded` (string scalar) is its bytes. TensorFlow
    reads files. Other contents are read in Python, where an unreadable image becomes empty bytes, so that the others of
    its batch are not lost. Iteration raises the OpErrors of reading files and of `load`.
    """
    if isinstance(contents, Files):
        paths = tf.constant(contents.paths())

        def read_and_load(*element: tf.Tensor) -> Any:
            number = number_of(*element)
            return load(tf.io.read_file(paths[number]), number, *element)

        # One map for both: passing a small image between tf.data stages would take longer than reading it.
        return dataset.map(read_and_load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    numbered = dataset.map(lambda *element: (number_of(*element), *element))
    return _with_images(contents, numbered).map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _with_images(contents: EncodedImages, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prepend the encoded image to every element; an element starts with the image's number."""

    def read(numbers: Indices) -> npt.NDArray[np.object_]:
        return np.array([_read(contents, index) for index in numbers.tolist()], dtype=object)

    def with_images(numbers: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # stateful=False lets it run ahead in parallel although operations are deterministic.
        encoded = tf.numpy_function(read, [numbers], tf.string, stateful=False)
        return tf.ensure_shape(encoded, [None]), numbers, *others

    batches = dataset.batch(AT_ONCE)
    return batches.map(with_images, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()


def _read(contents: EncodedImages, index: int) -> bytes:
    try:
        return contents[index]
    except OSError:
        return b""
