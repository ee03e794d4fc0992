"""The likeliest classes of images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from hyperrule.data.contents import Files
from hyperrule.prediction.images import why_undecodable
from hyperrule.prediction.logits import streamed
from hyperrule.prediction.released import Activation, ReleasedClassifier
from hyperrule.progress import Reporter


@dataclass(frozen=True)
class Scored:
    """A class, the index of its output, and its score: a probability, of a sigmoid independent of the others.

    `wnid` is the WordNet id, empty where there is none.
    """

    class_name: str
    wnid: str
    index: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, the first the likeliest; none, with an `error`, if it cannot be decoded."""

    image: str
    classes: tuple[Scored, ...]
    error: str | None = None


def predict_images(
    classifier: ReleasedClassifier, images: Sequence[Path], top: int, reporter: Reporter
) -> list[Prediction]:
    """The `top` likeliest classes of each image, in their order. Raises as `streamed` does."""
    found: dict[int, tuple[Scored, ...]] = {}
    contents = Files.of(Path(), list(map(str, images)))
    for indices, logits in streamed(classifier, contents, "Predicting", reporter):
        best = tf.math.top_k(logits, top).indices  # of logits: scores can be equal by rounding
        scores = tf.gather(_scores(logits, classifier.activation), best, batch_dims=1)
        for index, classes, of_classes in zip(indices, best.numpy(), scores.numpy(), strict=True):
            found[int(index)] = tuple(
                Scored(classifier.class_names[i].name, classifier.class_names[i].wnid, int(i), float(score))
                for i, score in zip(classes, of_classes, strict=True)
            )
    return [
        Prediction(_utf8(image), found[index])
        if index in found
        else Prediction(_utf8(image), (), why_undecodable(contents, index))
        for index, image in enumerate(images)
    ]


def _utf8(path: Path) -> str:
    """The path as it is, but for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _scores(logits: tf.Tensor, activation: Activation) -> tf.Tensor:
    return tf.nn.softmax(logits) if activation == "softmax" else tf.nn.sigmoid(logits)
