"""The likeliest classes of images, one image after the other."""

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.data.images import Files
from hyperrule.prediction.exported import Model
from hyperrule.prediction.images import why_undecodable
from hyperrule.prediction.logits import Batches, streamed
from hyperrule.prediction.released import Activation
from hyperrule.support.progress import Reporter


@dataclass(frozen=True)
class ScoredClass:
    """A class, the index of its output, and its score: a probability, of a sigmoid independent of the others.

    `wnid` is the WordNet id, empty where there is none.
    """

    class_name: str
    wnid: str
    index: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, the first the likeliest; none, with an `error`, if it cannot be decoded.

    `abstained` says that the first score is below the threshold that was asked for.
    """

    image: str
    classes: tuple[ScoredClass, ...]
    error: str | None = None
    abstained: bool = False


@dataclass(frozen=True)
class Predictions(Iterator[Prediction]):
    """One for each image, in their order, made as they are asked for; `top` classes each.

    Raises RunError, while it is iterated, if TensorFlow fails.
    """

    top: int
    rows: Generator[Prediction]

    def __next__(self) -> Prediction:
        return next(self.rows)

    def close(self) -> None:
        """Give up the rest."""
        self.rows.close()


@dataclass(frozen=True)
class Naming:
    """How logits are told: the `top` likeliest classes, of which the first must have a score of `threshold`."""

    classifier: Model
    top: int
    threshold: float

    def __call__(self, images: Sequence[str], logits: tf.Tensor) -> list[Prediction]:
        """Of logits float32 [M, classes] of M images."""
        best = tf.math.top_k(logits, self.top).indices  # of logits: scores can be equal by rounding
        scores = tf.gather(_scores(logits, self.classifier.activation), best, batch_dims=1)
        return [
            Prediction(image, self._scored(*row), abstained=float(row[1][0]) < self.threshold)
            for image, *row in zip(images, best.numpy(), scores.numpy(), strict=True)
        ]

    def _scored(self, indices: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> tuple[ScoredClass, ...]:
        names = self.classifier.class_names
        return tuple(
            ScoredClass(names[index].name, names[index].wnid, index, score)
            for index, score in zip(indices.tolist(), scores.tolist(), strict=True)
        )


def predict_images(
    classifier: Model, images: Sequence[str], top: int, threshold: float, reporter: Reporter
) -> Predictions:
    """The `top` likeliest classes of each file. Raises BackboneError if the classifier cannot be loaded."""
    contents = Files.of(Path(), images)
    batches = streamed(classifier, contents, "Predicting", reporter)
    return Predictions(top, _rows(contents, Naming(classifier, top, threshold), batches))


def _rows(contents: Files, naming: Naming, batches: Batches) -> Generator[Prediction]:
    """A row for each image; those that no batch has come between the others, with what is wrong."""

    def undecodable(start: int, stop: int) -> Iterator[Prediction]:
        for index in range(start, stop):
            yield Prediction(_utf8(contents.names[index]), (), why_undecodable(contents, index))

    done = 0
    for indices, logits in batches:
        named = naming([_utf8(name) for name in contents.names[indices]], logits)
        for index, prediction in zip(indices.tolist(), named, strict=True):
            yield from undecodable(done, index)
            yield prediction
            done = index + 1
    yield from undecodable(done, len(contents))


def _utf8(path: str) -> str:
    """The path as it is, but for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _scores(logits: tf.Tensor, activation: Activation) -> tf.Tensor:
    return tf.nn.softmax(logits) if activation == "softmax" else tf.nn.sigmoid(logits)
