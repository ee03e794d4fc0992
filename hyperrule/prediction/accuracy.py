"""Figures of merit of a classifier on labelled images, over all of its outputs."""

import numpy as np
from pydantic import BaseModel, ConfigDict

from hyperrule.errors import DataError
from hyperrule.evaluation.calibration import Reliability
from hyperrule.evaluation.metrics import Tally
from hyperrule.prediction.exported import Model
from hyperrule.prediction.images import LabelledImages, why_undecodable
from hyperrule.prediction.logits import streamed
from hyperrule.prediction.released import Activation
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed

CONFUSION_AT_MOST = 1_000  # classes: the matrix of 21,843 would take gigabytes


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
    believable = tally.reliability() if classifier.activation == "softmax" else None
    few = classifier.classes <= CONFUSION_AT_MOST
    return Accuracy(
        model=classifier.name,
        dataset=images.name,
        split=images.split,
        size=classifier.size,
        activation=classifier.activation,
        classes=classifier.classes,
        examples=int(good.sum()),
        top1=tally.top(1),
        balanced_accuracy=tally.balanced_accuracy,
        top5=tally.top(5),
        loss=None if believable is None else believable.loss,
        reliability=believable,
        per_class=_of_folders(classifier, images, labels, tally),
        class_names=tuple(known.name for known in classifier.class_names) if few else None,
        confusion=tally.confusion(classifier.classes) if few else None,
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
    precision, recall, f1, _ = tally.by_class(np.array(list(labels.values())))
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
