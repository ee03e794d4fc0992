"""Figures of merit of a classifier on labelled images, over all of its outputs.

What evaluation keeps of every image: a few numbers, for the logits of a whole data set would fit into no memory.
"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hyperrule.errors import DataError
from hyperrule.evaluation.calibration import Reliability, judged
from hyperrule.prediction.exported import Model
from hyperrule.prediction.images import LabelledImages, why_undecodable
from hyperrule.prediction.logits import streamed
from hyperrule.prediction.released import Activation
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

WRONG = -1  # predicted by logits that are no numbers
NOT_SEEN = -1  # the rank of an image that never came


class Tally:
    """Of images with the labels `truth` [N]: `ranks` int64 [N] (classes that come before the true one), `losses`
    float64 [N] in nats, `predicted` int64 [N] and `scores` float64 [N] (their probabilities), filled batch by batch."""

    def __init__(self, truth: Labels) -> None:
        self.truth = truth
        self.ranks = np.full(len(truth), NOT_SEEN)
        self.losses = np.zeros(len(truth))
        self.predicted = np.full(len(truth), WRONG)
        self.scores = np.zeros(len(truth))

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        seen: npt.NDArray[np.bool_] = self.ranks != NOT_SEEN
        return seen

    def add(self, indices: Labels, logits: Logits) -> None:
        """Logits [M, classes] of the images with these indices [M]."""
        labels = self.truth[indices]
        self.ranks[indices], self.losses[indices] = ranks_and_losses(logits, labels)
        self.predicted[indices] = np.where(np.isnan(logits).any(axis=1), WRONG, logits.argmax(axis=1))
        with np.errstate(invalid="ignore"):
            self.scores[indices] = softmax(logits.astype(np.float64), axis=1).max(axis=1)

    def reliability(self) -> Reliability:
        """Of the scores of a softmax, over all images so far; of logits that are no numbers there are none."""
        scored = self.seen & np.isfinite(self.scores)
        return judged(self.scores[scored], self.ranks[scored] == 0, float(self.losses[self.seen].mean()))


def ranks_and_losses(logits: Logits, labels: Labels) -> tuple[Labels, npt.NDArray[np.float64]]:
    """How many classes come before the true one, int64 [N], and its cross-entropy, float64 [N], of logits
    [N, classes] against labels [N].

    Of equal logits the first wins, as with argmax; against NaN all lose.
    """
    rows, classes = np.arange(len(labels)), np.arange(logits.shape[1])
    true = logits[rows, labels][:, np.newaxis]
    behind = (logits < true) | ((logits == true) & (classes >= labels[:, np.newaxis]))
    with np.errstate(invalid="ignore"):
        return (~behind).sum(axis=1), -log_softmax(logits.astype(np.float64), axis=1)[rows, labels]


CONFUSION_AT_MOST = 1_000  # classes: the matrix of 21,843 would take gigabytes

Values = npt.NDArray[np.float64]


class FolderAccuracy(BaseModel):
    """Figures of the images of one class folder; `class_name`, `wnid` and `index` are those of the class it means.

    `precision`, `recall` and `f1` are the class's among all images. A ratio without a denominator is 0.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    class_name: str
    wnid: str
    index: int
    examples: int
    top1: float
    top5: float
    precision: float
    recall: float
    f1: float


class Accuracy(BaseModel):
    """Figures over all images that could be decoded, as fractions; `undecodable` has the others, with reasons.

    `classes` is the number of outputs that they compete with, `balanced_accuracy` the mean recall of the classes that
    have images, `loss` the mean cross-entropy in nats of the calibrated probabilities and `reliability` how far their
    scores can be believed, both None for a sigmoid; `size` is the side in pixels of the images. `confusion[i][j]`
    counts images of class i taken for class j, in the order of `class_names`; both are None beyond 1,000 classes.
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
    balanced_accuracy: float
    top5: float
    loss: float | None
    reliability: Reliability | None
    per_class: tuple[FolderAccuracy, ...]
    class_names: tuple[str, ...] | None
    confusion: tuple[tuple[int, ...], ...] | None
    undecodable: dict[str, str]


def evaluate_images(classifier: Model, images: LabelledImages, labels: dict[str, int], reporter: Reporter) -> Accuracy:
    """Exact figures; `labels` are the outputs that the class names of the images mean.

    Raises DataError if no image can be decoded, and otherwise as `streamed` does.
    """
    tally = Tally(np.array([labels[name] for name in images.class_names]))
    for indices, logits in streamed(classifier, images.contents, "Evaluation", reporter):
        tally.add(indices, logits.numpy())
    good = tally.seen
    undecodable = {images.ids[i]: why_undecodable(images.contents, i) for i in np.flatnonzero(~good).tolist()}
    if not good.any():
        said = listed(f"{image} ({why})" for image, why in undecodable.items())
        raise DataError(f"none of the {len(good)} images of {images.name} can be decoded: {said}.")
    truth, predicted, ranks = tally.truth[good], tally.predicted[good], tally.ranks[good]
    believable = tally.reliability() if classifier.activation == "softmax" else None
    square = range(classifier.classes) if classifier.classes <= CONFUSION_AT_MOST else None
    return Accuracy(
        model=classifier.name,
        dataset=images.name,
        split=images.split,
        size=classifier.size,
        activation=classifier.activation,
        classes=classifier.classes,
        examples=int(good.sum()),
        top1=float(np.mean(ranks < 1)),
        balanced_accuracy=float(_by_class(truth, predicted, np.unique(truth))[1].mean()),
        top5=float(np.mean(ranks < 5)),
        loss=None if believable is None else believable.loss,
        reliability=believable,
        per_class=_of_folders(classifier, images, labels, tally),
        class_names=None if square is None else tuple(known.name for known in classifier.class_names),
        confusion=None
        if square is None
        else tuple(map(tuple, confusion_matrix(truth, predicted, labels=square).tolist())),
        undecodable=undecodable,
    )


def _of_folders(
    classifier: Model, images: LabelledImages, labels: dict[str, int], tally: Tally
) -> tuple[FolderAccuracy, ...]:
    good = tally.seen
    numbers = {folder: number for number, folder in enumerate(labels)}
    which = np.array([numbers[name] for name in images.class_names])[good]
    counts = np.bincount(which, minlength=len(labels))
    top1, top5 = (
        np.bincount(which, tally.ranks[good] < within, len(labels)) / np.maximum(counts, 1) for within in (1, 5)
    )
    precision, recall, f1 = _by_class(tally.truth[good], tally.predicted[good], np.array(list(labels.values())))
    return tuple(
        FolderAccuracy(
            folder=folder,
            class_name=classifier.class_names[index].name,
            wnid=classifier.class_names[index].wnid,
            index=index,
            examples=int(counts[number]),
            top1=float(top1[number]),
            top5=float(top5[number]),
            precision=float(precision[number]),
            recall=float(recall[number]),
            f1=float(f1[number]),
        )
        for number, (folder, index) in enumerate(labels.items())
    )


def _by_class(
    truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]
) -> tuple[Values, Values, Values]:
    """Precision, recall and F1, float64 [K] each, of the classes with these indices [K]."""
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, labels=indices, zero_division=0.0)
    return precision, recall, f1
