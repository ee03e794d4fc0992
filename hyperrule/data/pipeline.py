"""tf.data pipelines: micro-batches for training and evaluation, streamed.

Everything random is a function of (seed, position), where position counts the examples drawn
since step 0. So a run that resumes at step k starts at position k x batch and replays nothing, and
neither order nor augmentation nor mixup depend on the micro-batch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hyperrule.data.dataset_info import Examples
from hyperrule.data.preprocess import decode, for_evaluation, for_training


class MicroBatch(NamedTuple):
    """images float32 [M, crop, crop, 3] in [0, 1]; targets float32 [M, classes], rows sum to 1;
    weights float32 [M]: 1, or 0 for the rows that pad the last micro-batch."""

    images: tf.Tensor
    targets: tf.Tensor
    weights: tf.Tensor


@dataclass(frozen=True)
class Augmentation:
    """Training-time processing; `mixup` is alpha of the Beta distribution, 0 for none."""

    resize: int
    crop: int
    random_crop: bool
    random_flip: bool
    mixup: float


def training_batches(
    examples: Examples,
    classes: int,
    augmentation: Augmentation,
    batch: int,
    micro_batch: int,
    steps: range,
    seed: int,
) -> tf.data.Dataset:
    """Micro-batches of the given steps, ceil(batch / micro_batch) for each, in order.

    Step k draws positions k x batch to (k + 1) x batch; each pass over the data has an order of
    its own. Mixup blends position i with i + 1 (the step's last with its first), one lambda a step.
    """
    stored = _stored(examples)
    count = np.int64(len(examples))

    def load(step: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, MicroBatch]:
        position = step * batch + offset % batch
        # A stateless permutation, element by element: no order of a million examples is ever held.
        example = tf.random.experimental.index_shuffle(
            position % count, seed=tf.stack([np.int64(seed), position // count]), max_index=count - 1
        )
        encoded, label = stored.read(example)
        image = for_training(
            encoded,
            augmentation.resize,
            augmentation.crop,
            augmentation.random_crop,
            augmentation.random_flip,
            tf.stack([np.int64(seed), position]),
        )
        return step, MicroBatch(image, tf.one_hot(label, classes), tf.cast(offset < batch, tf.float32))

    def blend(previous: MicroBatch, current: tuple[tf.Tensor, MicroBatch]) -> tuple[MicroBatch, MicroBatch]:
        """`previous` mixed with its successor; it keeps its own weight."""
        step, example = current
        mixing = _beta(augmentation.mixup, tf.stack([np.int64(seed), step]))
        image = mixing * previous.images + (1 - mixing) * example.images
        target = mixing * previous.targets + (1 - mixing) * example.targets
        return example, MicroBatch(image, target, previous.weights)

    # Offsets past the batch fill the last micro-batch, with weight 0. With mixup, one example more is
    # read: the step's first again, as the partner of its last.
    padded = _round_up(batch, micro_batch)
    offsets = tf.data.Dataset.range(padded + 1 if augmentation.mixup else padded)
    dataset = tf.data.Dataset.range(steps.start, steps.stop).flat_map(
        lambda step: offsets.map(lambda offset: (step, offset))
    )
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if augmentation.mixup:
        shape = [augmentation.crop, augmentation.crop, 3]
        nothing = MicroBatch(tf.zeros(shape), tf.zeros([classes]), tf.constant(0.0))
        # The pair that straddles two steps comes first in each step; it is dropped.
        dataset = dataset.scan(nothing, blend).enumerate().filter(lambda index, _: index % (padded + 1) > 0)
    return dataset.map(lambda _, example: example).batch(micro_batch, drop_remainder=True).prefetch(2)


def evaluation_batches(examples: Examples, classes: int, crop: int, micro_batch: int) -> tf.data.Dataset:
    """Every example once, in order, as micro-batches; the last one is padded with weight 0."""
    stored = _stored(examples)

    def load(index: tf.Tensor) -> MicroBatch:
        encoded, label = stored.read(tf.minimum(index, len(examples) - 1))
        weight = tf.cast(index < len(examples), tf.float32)
        return MicroBatch(for_evaluation(encoded, crop), tf.one_hot(label, classes), weight)

    dataset = tf.data.Dataset.range(_round_up(len(examples), micro_batch))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(micro_batch, drop_remainder=True).prefetch(2)


def undecodable(examples: Examples) -> list[str]:
    """Ids of the examples whose image cannot be read or decoded; decodes every one, on all cores."""
    stored = _stored(examples)

    def decoded(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, tf.shape(decode(stored.read(index)[0]))

    survivors = tf.data.Dataset.range(len(examples)).map(decoded, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    good = {int(index) for index, _ in survivors.as_numpy_iterator()}
    return [example for index, example in enumerate(examples.ids) if index not in good]


@dataclass(frozen=True)
class _Stored:
    """Examples as tensors: labels int32 [n] and contents string [n], bytes or paths."""

    labels: tf.Tensor
    contents: tf.Tensor
    in_files: bool

    def read(self, example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content = self.contents[example]
        return tf.io.read_file(content) if self.in_files else content, self.labels[example]


def _stored(examples: Examples) -> _Stored:
    in_files = isinstance(examples.contents[0], Path)
    contents = [str(path) for path in examples.contents] if in_files else list(examples.contents)
    return _Stored(tf.constant(examples.labels), tf.constant(contents), in_files)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """One draw of Beta(alpha, alpha), a function of the seed (int64 [2])."""
    gammas = tf.random.stateless_gamma([2], seed, alpha)
    return gammas[0] / tf.reduce_sum(gammas)
