"""Images whose label is probably wrong: what `hyperrule label-errors` finds.

Probabilities of every image's classes, by a probe that has seen neither it nor an equal image.

Which labels a probe that has not seen them finds improbable, and how many of those are more than chance.

Suspected labels as one web page that needs nothing but itself.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, PrivateAttr
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from hyperrule.data.images import Examples, Indices
from hyperrule.data.listing import Split
from hyperrule.data.selection import write_exclusions
from hyperrule.data.source import Source, equal_groups
from hyperrule.errors import DataError, RecipeError
from hyperrule.evaluation.calibration import fit_temperature
from hyperrule.evaluation.features import FrozenFeatures
from hyperrule.evaluation.probe import BLAS_THREADS, L2_CANDIDATES, fit_probes
from hyperrule.pages.rendering import render
from hyperrule.pages.thumbnails import pictures
from hyperrule.support.files import atomic_write
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import number

SplitChoice = Literal[Split, "all"]
FEWEST = 4  # images that a probe and what it has not seen are made of


class Suspect(BaseModel):
    """`score` is 1 - the probability of the label, and `probability` that of `likelier`, the likeliest class; by a
    probe that has seen neither the image nor one equal to it."""

    model_config = ConfigDict(frozen=True)

    id: str
    split: Split
    label: str
    likelier: str
    score: float
    probability: float


class LabelErrors(BaseModel):
    """`suspects`, the most suspicious first: as many as were asked for, or those that stand out, of which there are
    `suspected`. At most about half of those have a right label, if the probe's probabilities hold; of clean data, where
    what is left are images that it is sure and wrong about, most or all have.

    `accuracy` is the share of the `images` whose label the probe finds likeliest; images of classes that are
    `not_judged` have no other of their class to be compared with. `excluded` are the ids left out before.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    backbone: str
    size: int
    splits: tuple[Split, ...]
    images: int
    accuracy: float
    suspected: int
    suspects: tuple[Suspect, ...]
    class_names: tuple[str, ...]
    per_class: tuple[int, ...]
    not_judged: tuple[str, ...]
    excluded: tuple[str, ...]

    _source: Source | None = PrivateAttr(None)

    def write_csv(self, file: Path) -> None:
        """A row for each suspect. Raises RunError if it cannot be written."""
        with atomic_write(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(Suspect.model_fields))
            writer.writeheader()
            writer.writerows(
                {**suspect.model_dump(), "score": f"{suspect.score:.6f}", "probability": f"{suspect.probability:.6f}"}
                for suspect in self.suspects
            )

    def write_exclusions(self, file: Path) -> None:
        """CSV for `finetune --exclude`, of the suspects and of what was left out before. Raises RunError."""
        reasons = dict.fromkeys(self.excluded, "left out before") | {
            suspect.id: f"labelled {suspect.label}, probably {suspect.likelier} (score {suspect.score:.4f})"
            for suspect in self.suspects
        }
        write_exclusions(file, reasons.items())

    def write_page(self, file: Path) -> None:
        """One HTML page that needs nothing else, with images. Raises RunError if it cannot be written; ValueError for
        findings that were read back from JSON, which have no images."""
        if self._source is None:
            raise ValueError("these findings came without their images: call hyperrule.label_errors")

        page = render_page(self, self._source)
        with atomic_write(file) as partial:
            partial.write_text(page, encoding="utf-8")


def in_words(found: LabelErrors) -> str:
    """What was found, in a sentence or two."""
    images = f"{number(found.images, 'image')} of {' and '.join(found.splits)}"
    rate = f"The probe agrees with {found.accuracy:.1%} of the labels."
    if not found.suspected:
        return f"No label of {images} stands out as wrong. {rate}"
    return f"{found.suspected:,} of {images} have a label that stands out: worth a look. {rate}"


def chosen_splits(source: Source, split: str | None) -> tuple[Split, ...]:
    """By default what is trained on: of a data set that is not split, all of it. Raises RecipeError, DataError."""
    if split not in (None, *get_args(Split), "all"):
        raise RecipeError(f"split must be train, validation, test or all. Received: {split!r}")
    there = tuple(source.splits)
    drawn = len(source.listing.splits) < 2
    if split == "all" or (split is None and drawn):
        return there
    wanted = next((known for known in there if known == (split or "train")), None)
    if wanted is None:
        raise DataError(f"{source.name} has no images for {split}: it has only {' and '.join(there)}.")
    return (wanted,)


def find_label_errors(frozen: FrozenFeatures, splits: tuple[Split, ...], top: int | None) -> LabelErrors:
    """Judge the images of the splits together. `top` is how many suspects are kept, None for those that stand out.

    Raises DataError for too few images, and what `FrozenFeatures.features` raises.
    """
    source = frozen.source
    parts = {split: source.examples(split) for split in splits}
    ids = [identity for part in parts.values() for identity in part.ids]
    split_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    labels = np.concatenate([part.labels for part in parts.values()])
    groups = _groups(source, parts)
    names = source.listing.class_names
    different = np.bincount(np.unique(np.stack([groups, labels]), axis=1)[1], minlength=len(names))
    if np.count_nonzero(different > 1) < 2 or len(ids) < FEWEST:
        raise DataError(
            f"too few images in {' and '.join(splits)} of {source.name} to judge a label by the others: at least 2 "
            f"classes with 2 different images each are needed. Received: {len(ids)} images of {len(names)} classes."
        )
    features = np.concatenate([frozen.features(part) for part in parts.values()])
    probabilities = left_out_probabilities(features, labels, len(names), groups, frozen.reporter)
    judged = different[labels] > 1
    ranking = rank(probabilities, labels, judged)
    likeliest = probabilities.argmax(axis=1)
    found = LabelErrors(
        dataset=source.name,
        backbone=frozen.backbone.name,
        size=frozen.size,
        splits=splits,
        images=len(ids),
        accuracy=float(np.mean(likeliest == labels)),
        suspected=ranking.suspected,
        suspects=tuple(
            Suspect(
                id=ids[place],
                split=splits[split_of[place]],
                label=names[labels[place]],
                likelier=names[likeliest[place]],
                score=float(1 - probabilities[place, labels[place]]),
                probability=float(probabilities[place, likeliest[place]]),
            )
            for place in ranking.order[: ranking.suspected if top is None else top].tolist()
        ),
        class_names=names,
        per_class=tuple(np.bincount(labels, minlength=len(names)).tolist()),
        not_judged=tuple(names[label] for label in np.flatnonzero(different == 1)),
        excluded=tuple(sorted(source.exclusions.ids)),
    )
    found._source = source
    return found


def _groups(source: Source, parts: dict[Split, Examples]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64 [N]: the same number for equal images."""
    numbers = {identity: number for number, identity in enumerate(source.listing.ids)}
    places = [numbers[identity] for part in parts.values() for identity in part.ids]
    return equal_groups(source.facts["sha256"][places])


SEED = 0  # of the halves

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]


def left_out_probabilities(
    features: npt.NDArray[np.float32], labels: Labels, classes: int, groups: Indices, reporter: Reporter
) -> Floats:
    """Probabilities [N, classes] from features [N, D], labels [N] and `groups` [N] of equal images.

    They are left-out scores of one probe fitted to all, in closed form, and so cost one eigendecomposition. l2 is that
    of least cross-entropy. Each half of the images has the temperature that was fitted to the other half: but for these
    two numbers, what is said of an image does not depend on its own label.
    """
    halves = deal(labels, groups, 2, SEED)
    calibrated = []
    with reporter.stage("Probes", len(L2_CANDIDATES)) as report, threadpool_limits(BLAS_THREADS, "blas"):
        for done, probe in enumerate(fit_probes(features, labels, classes, L2_CANDIDATES, groups), start=1):
            calibrated.append(_calibrated(probe.left_out_scores, labels, halves))
            report(done, "")
    places = np.arange(len(labels))
    best: Floats = np.exp(max(calibrated, key=lambda logs: float(np.mean(logs[places, labels]))))
    return best


def _calibrated(scores: Floats, labels: Labels, halves: Indices) -> Floats:
    """Logarithms of probabilities [N, classes]."""
    logs = np.empty_like(scores)
    for half in (0, 1):
        here = halves == half
        logs[here] = log_softmax(scores[here] / fit_temperature(scores[~here], labels[~here]), axis=1)
    return logs


def deal(labels: Labels, groups: Indices, parts: int, seed: int) -> Indices:
    """The part of every image, int64 [N], from 0: equal images (`groups` [N]) have the same, and each class is spread
    evenly."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    part = np.empty(len(first), np.int64)
    part[by_class] = np.arange(len(first)) % parts
    dealt: Indices = part[group]
    return dealt


RIGHT_AT_MOST = 0.5  # share of the suspected labels that may be right after all

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """`order` int64 [n]: images whose label is not the likeliest class, the most improbable label first. The first
    `suspected` of them stand out."""

    order: Indices
    suspected: int


def rank(probabilities: Probabilities, labels: npt.NDArray[np.int32], judged: npt.NDArray[np.bool_]) -> Ranking:
    """From probabilities [N, classes] by probes that have not seen the image, and labels [N]; of images that can be
    `judged` (bool [N]).

    The order is by the label's own probability, which found more flipped labels than the distance to the likeliest
    class or than its probability did (scripts/bench label_errors).
    """
    given = probabilities[np.arange(len(labels)), labels]
    doubted = np.flatnonzero(judged & (probabilities.argmax(axis=1) != labels))
    order = doubted[np.argsort(given[doubted], kind="stable")]
    right = expected_right(probabilities[judged], given[order])
    few_enough = np.flatnonzero(right <= RIGHT_AT_MOST * np.arange(1, len(order) + 1))
    return Ranking(order, int(few_enough[-1]) + 1 if len(few_enough) else 0)


def expected_right(probabilities: Probabilities, limits: Probabilities) -> Probabilities:
    """How many images [n] would have a label at most as probable as each limit [n] (ascending) if every label were
    drawn from the probabilities [N, classes], that is, if all were right and the probe calibrated.

    >>> expected_right(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0.05, 0.1, 0.2])).round(9).tolist()
    [0.0, 0.1, 0.3]
    """
    ascending = np.sort(probabilities, axis=None)
    sums = np.concatenate([[0.0], np.cumsum(ascending)])
    expected: Probabilities = sums[np.searchsorted(ascending, limits, side="right")]
    return expected


PICTURES = 240  # suspects shown with their image
PAIRS = 12  # of label and likelier class, in the table of the most frequent


def render_page(found: LabelErrors, source: Source) -> str:
    """HTML. Every name in it is text, whatever it holds."""
    shown = found.suspects[:PICTURES]
    by_label = Counter(suspect.label for suspect in found.suspects)
    return render(
        "audit/label_errors.html",
        found=found,
        summary=in_words(found),
        shown=shown,
        pictures=pictures(source, (suspect.id for suspect in shown)),
        pairs=Counter((suspect.label, suspect.likelier) for suspect in found.suspects).most_common(PAIRS),
        classes=[
            (name, images, by_label[name])
            for name, images in zip(found.class_names, found.per_class, strict=True)
            if by_label[name]
        ],
    )
