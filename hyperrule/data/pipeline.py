"""tf.data pipelines: micro-batches for training and evaluation, streamed.

Everything random is a function of (seed, position), where position counts the examples drawn
since step 0. So a run that resumes at step k starts at position k x batch and replays nothing, and
neither order nor augmentation nor mixup depend on the micro-batch.

Encoded images into tf.data by their numbers.
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
CLASS_STREAM = 1 << 40  # added to the seed and a class, so that its passes differ from all others


class MicroBatch(NamedTuple):
    """images float32 [M, crop, crop, 3] in [0, 1]; targets float32 [M, classes], rows sum to 1;
    weights float32 [M]: 0 for the rows that pad the last micro-batch, else 1 or what balances the classes."""

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
    """Micro-batches of the given steps, `shard.rounds(batch, micro_batch)` for each step and device, in order.

    Step k draws positions k x batch to (k + 1) x batch, of which the shard has its part; each pass over the data has
    an order of its own. Mixup blends position i with i + 1 (the step's last with its first), one lambda a step.

    `balance` "sampler" draws every class equally often, "loss" gives every example the weight n / (classes x images
    of its class). `shares` are the draws of each class in a round of their sum, and exclude "sampler".
    """
    if balance == "sampler":
        shares = [1] * classes
    draw = _order(len(examples), seed) if shares is None else _shared_order(examples.labels, shares, seed)
    labels = tf.constant(examples.labels)
    counts = np.maximum(np.bincount(examples.labels, minlength=classes), 1)
    class_weights = tf.constant(len(examples) / (classes * counts), tf.float32)

    # Rows past the shard's part fill the last micro-batch, with weight 0. With mixup, one example more is read, as the
    # partner of the last.
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
        """`previous` mixed with its successor; it keeps its own weight."""
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
        # The pair that straddles two steps comes first in each step; it is dropped.
        pairs = dataset.enumerate(first).scan(nothing, blend).filter(lambda index, _: index % rows > 0)
        dataset = pairs.map(lambda _, example: example)
    if balance == "loss":
        dataset = dataset.map(weigh)
    return dataset.batch(micro_batch, drop_remainder=True).prefetch(2)


def evaluation_batches(
    examples: Examples, classes: int, crop: int, micro_batch: int, shard: Shard = WHOLE
) -> tf.data.Dataset:
    """Every example of the shard's part once, in order, as micro-batches; what pads them has weight 0."""
    labels = tf.constant(examples.labels)
    part = shard.part(len(examples))

    def load(encoded: tf.Tensor, example: tf.Tensor, index: tf.Tensor) -> MicroBatch:
        weight = tf.cast(index < part.stop, tf.float32)
        return MicroBatch(for_evaluation(encoded, crop), tf.one_hot(labels[example], classes), weight)

    indices = tf.data.Dataset.range(part.start, part.start + shard.rows(len(examples), micro_batch))
    dataset = load_images(examples.contents, indices, lambda index: tf.minimum(index, len(examples) - 1), load)
    return dataset.batch(micro_batch, drop_remainder=True).prefetch(2)


def undecodable(examples: Examples) -> list[str]:
    """Ids of the examples whose image cannot be read or decoded; decodes every one, on all cores."""

    def decoded(encoded: tf.Tensor, index: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, tf.shape(decode(encoded))

    numbers = tf.data.Dataset.range(len(examples))
    survivors = load_images(examples.contents, numbers, lambda index: index, decoded).ignore_errors()
    good = {int(index) for index, _ in survivors.as_numpy_iterator()}
    return [example for index, example in enumerate(examples.ids) if index not in good]


def _order(count: int, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """From a position to the number of an example: a pass over all of them, then the next in another order."""

    def draw(position: tf.Tensor) -> tf.Tensor:
        return _shuffled(position % count, count, tf.stack([np.int64(seed), position // count]))

    return draw


def _shared_order(labels: npt.NDArray[np.int32], shares: Sequence[int], seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """From a position to the number of an example: each class as often in a round as its share, its examples in passes
    of their own."""
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
    """Where a permutation of `count` numbers, a function of the seed (int64 [2]), puts the index.

    Element by element: no order of a million examples is ever held.
    """
    largest = tf.cast(count, tf.int64) - 1
    return tf.random.experimental.index_shuffle(index, seed=seed, max_index=largest)


def _beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """One draw of Beta(alpha, alpha), a function of the seed (int64 [2])."""
    gammas = tf.random.stateless_gamma([2], seed, alpha)
    return gammas[0] / tf.reduce_sum(gammas)


AT_ONCE = 32  # images read by one call from TensorFlow into Python, which costs as much as reading several small ones


def load_images(
    contents: EncodedImages,
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


def _with_images(contents: EncodedImages, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The elements, which start with a number, each after the encoded image of that number."""

    def read(numbers: Indices) -> npt.NDArray[np.object_]:
        return np.array([_read(contents, index) for index in numbers.tolist()], dtype=object)

    def with_images(numbers: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Not stateful, so that it may run ahead in parallel although operations are deterministic.
        encoded = tf.numpy_function(read, [numbers], tf.string, stateful=False)
        return tf.ensure_shape(encoded, [None]), numbers, *others

    batches = dataset.batch(AT_ONCE)
    return batches.map(with_images, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()


def _read(contents: EncodedImages, index: int) -> bytes:
    try:
        return contents[index]
    except OSError:
        return b""
