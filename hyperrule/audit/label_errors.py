"""Find images whose label is probably wrong, for `hyperrule label-errors`.

A linear probe predicts the class of every image without having seen that image or an equal one. Images are ranked by
the predicted probability of their label, and the ranking is cut where labels no longer are improbable beyond chance.
The result is written as CSV or as one self-contained HTML page.
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
from hyperrule.support.files import atomic_write, write_text
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import number

SplitChoice = Literal[Split, "all"]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]
Probabilities = npt.NDArray[np.float64]
FEWEST = 4  # images needed to fit a probe and judge images that it has not seen
SEED = 0  # of the split into halves
RIGHT_AT_MOST = 0.5  # expected fraction of suspected labels that are correct
PICTURES = 240  # suspects shown with their image
PAIRS = 12  # most frequent pairs of label and likelier class, shown in a table


class Suspect(BaseModel):
    """An image whose label is suspected. `score` is 1 - the probability of its label; `probability` is that of
    `likelier`, the likeliest class. Both are by a probe that has seen neither the image nor an equal one."""

    model_config = ConfigDict(frozen=True)

    id: str
    split: Split
    label: str
    likelier: str
    score: float
    probability: float


class LabelErrors(BaseModel):
    """The suspected labels of a data set.

    `suspects`, most suspicious first, has as many as the user requested, or the `suspected` ones that stand out. If the
    probe is calibrated, at most about half of the latter are labelled correctly; in clean data most or all are, because
    only images that the probe gets confidently wrong remain.

    `accuracy` is the fraction of the `images` whose label the probe finds likeliest. Classes `not_judged` have only one
    distinct image each, and so none to compare it with. `excluded` are the ids that --exclude left out.
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
        """Write one row per suspect. Raises RunError if the file cannot be written."""
        with atomic_write(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(Suspect.model_fields))
            writer.writeheader()
            writer.writerows(
                {**suspect.model_dump(), "score": f"{suspect.score:.6f}", "probability": f"{suspect.probability:.6f}"}
                for suspect in self.suspects
            )

    def write_exclusions(self, file: Path) -> None:
        """Write a CSV for `finetune --exclude`: the suspects, and images excluded before. Raises RunError."""
        reasons = dict.fromkeys(self.excluded, "left out before") | {
            suspect.id: f"labelled {suspect.label}, probably {suspect.likelier} (score {suspect.score:.4f})"
            for suspect in self.suspects
        }
        write_exclusions(file, reasons.items())

    def write_page(self, file: Path) -> None:
        """Write a self-contained HTML page with images. Raises RunError if it cannot be written, and ValueError for
        results read back from JSON, which have no images."""
        if self._source is None:
            raise ValueError("these results were loaded without their images: call hyperrule.label_errors")

        page = render_page(self, self._source)
        write_text(file, page)


def in_words(found: LabelErrors) -> str:
    """Summarise the result in a sentence or two."""
    images = f"{number(found.images, 'image')} of {' and '.join(found.splits)}"
    rate = f"The probe agrees with {found.accuracy:.1%} of the labels."
    if not found.suspected:
        return f"No label of {images} stands out as wrong. {rate}"
    return f"{found.suspected:,} of {images} have a label that stands out: worth a look. {rate}"


def chosen_splits(source: Source, split: str | None) -> tuple[Split, ...]:
    """Return the splits to judge: by default train, or everything if the data set is not split.

    Raises RecipeError for an unknown split, DataError for one without images.
    """
    if split not in (None, *get_args(Split), "all"):
        raise RecipeError(f"split must be train, validation, test or all. Received: {split!r}")
    there = tuple(source.splits)
    is_random_split = len(source.listing.splits) < 2
    if split == "all" or (split is None and is_random_split):
        return there
    wanted = next((known for known in there if known == (split or "train")), None)
    if wanted is None:
        raise DataError(f"{source.name} has no images for {split}: it has only {' and '.join(there)}.")
    return (wanted,)


def find_label_errors(frozen: FrozenFeatures, splits: tuple[Split, ...], top: int | None) -> LabelErrors:
    """Judge the images of all `splits` together; keep the `top` suspects, or with None those that stand out.

    Raises DataError for too few images, and the errors of `FrozenFeatures.features`.
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
    """Number equal images equally: int64 [N]."""
    numbers = {identity: number for number, identity in enumerate(source.listing.ids)}
    places = [numbers[identity] for part in parts.values() for identity in part.ids]
    return equal_groups(source.facts["sha256"][places])


def left_out_probabilities(
    features: npt.NDArray[np.float32], labels: Labels, classes: int, groups: Indices, reporter: Reporter
) -> Floats:
    """Return leave-out probabilities, float64 [N, classes]: each image's by a probe without it and its equals.

    `features` are float32 [N, D], `labels` int32 [N]; equal images have the same number in `groups` (int64 [N]).

    The leave-out scores follow in closed form from one probe fitted to all images, and so cost one eigendecomposition.
    l2 minimises cross-entropy. Each half of the images uses the temperature fitted to the other half. Apart from these
    two hyper-parameters, an image's probabilities do not depend on its own label.
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
    """Return log-probabilities [N, classes] of scores [N, classes], each half calibrated on the other."""
    logs = np.empty_like(scores)
    for half in (0, 1):
        here = halves == half
        logs[here] = log_softmax(scores[here] / fit_temperature(scores[~here], labels[~here]), axis=1)
    return logs


def deal(labels: Labels, groups: Indices, parts: int, seed: int) -> Indices:
    """Assign every image to one of `parts`, numbered from 0: int64 [N]. Equal images (same number in `groups`, int64
    [N]) get the same part, and each class is spread evenly."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    part = np.empty(len(first), np.int64)
    part[by_class] = np.arange(len(first)) % parts
    dealt: Indices = part[group]
    return dealt


@dataclass(frozen=True)
class Ranking:
    """`order` (int64 [n]) indexes the images whose label is not the likeliest class, most improbable label first. The
    first `suspected` of them stand out."""

    order: Indices
    suspected: int


def rank(probabilities: Probabilities, labels: npt.NDArray[np.int32], judged: npt.NDArray[np.bool_]) -> Ranking:
    """Rank images by leave-out probabilities (float64 [N, classes]) and labels (int32 [N]); only those `judged`
    (bool [N]).

    The order is by the probability of the label, which found more flipped labels than the distance to the likeliest
    class's probability or that probability itself (scripts/bench label_errors).
    """
    given = probabilities[np.arange(len(labels)), labels]
    doubted = np.flatnonzero(judged & (probabilities.argmax(axis=1) != labels))
    order = doubted[np.argsort(given[doubted], kind="stable")]
    right = expected_right(probabilities[judged], given[order])
    few_enough = np.flatnonzero(right <= RIGHT_AT_MOST * np.arange(1, len(order) + 1))
    return Ranking(order, int(few_enough[-1]) + 1 if len(few_enough) else 0)


def expected_right(probabilities: Probabilities, limits: Probabilities) -> Probabilities:
    """Return the expected number of correctly labelled images whose label is at most as probable as each limit.

    Takes probabilities [N, classes] and limits [n] (ascending); returns float64 [n]. Labels are assumed to follow the
    probabilities, that is, to be correct with a calibrated probe.

    >>> expected_right(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0.05, 0.1, 0.2])).round(9).tolist()
    [0.0, 0.1, 0.3]
    """
    ascending = np.sort(probabilities, axis=None)
    sums = np.concatenate([[0.0], np.cumsum(ascending)])
    expected: Probabilities = sums[np.searchsorted(ascending, limits, side="right")]
    return expected


def render_page(found: LabelErrors, source: Source) -> str:
    """Render the HTML page. Names are escaped."""
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
