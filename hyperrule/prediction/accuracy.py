"""Accuracy of a released classifier on labelled images, over all of its outputs.

Images go through in batches and leave three numbers each: the logits of a whole data set, and the confusion of
21,843 classes, would fit into no memory.
"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.special import log_softmax

from hyperrule.errors import DataError
from hyperrule.prediction.exported import Model
from hyperrule.prediction.images import LabelledImages, why_undecodable
from hyperrule.prediction.logits import streamed
from hyperrule.prediction.released import Activation
from hyperrule.progress import Reporter
from hyperrule.wording import listed


class FolderAccuracy(BaseModel):
    """Figures of the images of one class folder; `class_name`, `wnid` and `index` are those of the class it means."""

    model_config = ConfigDict(frozen=True)

    folder: str
    class_name: str
    wnid: str
    index: int
    examples: int
    top1: float
    top5: float


class Accuracy(BaseModel):
    """Figures over all images that could be decoded, as fractions; `undecodable` has the others, with reasons.

    `classes` is the number of outputs that they compete with, `loss` the mean cross-entropy in nats, None for a
    sigmoid, `size` the side in pixels of the images.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    dataset: str
    split: str | None
    size: int
    activation: Activation
    classes: int
    examples: int
    top1: float
    top5: float
    loss: float | None
    per_class: tuple[FolderAccuracy, ...]
    undecodable: dict[str, str]


def evaluate_images(classifier: Model, images: LabelledImages, labels: dict[str, int], reporter: Reporter) -> Accuracy:
    """Exact figures; `labels` are the outputs that the class names of the images mean.

    Raises DataError if no image can be decoded, and otherwise as `streamed` does.
    """
    truth = np.array([labels[name] for name in images.class_names])
    ranks, losses = np.full(len(truth), -1), np.zeros(len(truth))
    for indices, logits in streamed(classifier, images.contents, "Evaluation", reporter):
        ranks[indices], losses[indices] = ranks_and_losses(logits.numpy(), truth[indices])
    good = ranks >= 0
    undecodable = {images.ids[i]: why_undecodable(images.contents, i) for i in np.flatnonzero(~good).tolist()}
    if not good.any():
        said = listed(f"{image} ({why})" for image, why in undecodable.items())
        raise DataError(f"none of the {len(truth)} images of {images.name} can be decoded: {said}.")
    folders = np.array(images.class_names)
    return Accuracy(
        model=classifier.name,
        dataset=images.name,
        split=images.split,
        size=classifier.size,
        activation=classifier.activation,
        classes=classifier.classes,
        examples=int(good.sum()),
        top1=float(np.mean(ranks[good] < 1)),
        top5=float(np.mean(ranks[good] < 5)),
        loss=float(losses[good].mean()) if classifier.activation == "softmax" else None,
        per_class=tuple(
            _of_folder(classifier, folder, index, ranks[good & (folders == folder)]) for folder, index in labels.items()
        ),
        undecodable=undecodable,
    )


def ranks_and_losses(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How many classes come before the true one, int64 [N], and its cross-entropy, float64 [N], of logits
    [N, classes] against labels [N].

    Of equal logits the first wins, as with argmax; against NaN all lose.
    """
    rows, classes = np.arange(len(labels)), np.arange(logits.shape[1])
    true = logits[rows, labels][:, np.newaxis]
    behind = (logits < true) | ((logits == true) & (classes >= labels[:, np.newaxis]))
    with np.errstate(invalid="ignore"):
        return (~behind).sum(axis=1), -log_softmax(logits.astype(np.float64), axis=1)[rows, labels]


def _of_folder(classifier: Model, folder: str, index: int, ranks: npt.NDArray[np.int64]) -> FolderAccuracy:
    """A ratio without a denominator is 0."""
    wnid, name = classifier.class_names[index]
    count = max(len(ranks), 1)
    return FolderAccuracy(
        folder=folder,
        class_name=name,
        wnid=wnid,
        index=index,
        examples=len(ranks),
        top1=float(np.sum(ranks < 1)) / count,
        top5=float(np.sum(ranks < 5)) / count,
    )
