"""Measure how many wrong labels `hyperrule label-errors` finds, after a seed flips 5 % of the training labels.

    scripts/bench label_errors DATASET... [--backbone BACKBONE]... [--each N] [--seeds N]

DATASET is what finetune takes; --each limits the training images of each class. Prints a Markdown table of
means over the seeds. With N flipped labels: precision among the first N suspects, which equals recall there; recall
among the first 2N; chance beside both; how many labels stand out, and how many of these are flipped; how many stand out
when none is flipped; seconds without the extraction of features.
"""

import argparse
import time
from dataclasses import dataclass
from statistics import mean

import numpy as np
import numpy.typing as npt

from hyperrule.audit.label_errors import left_out_probabilities, rank
from hyperrule.data.images import Examples
from hyperrule.evaluation.features import frozen_features
from hyperrule.recipe import Recipe
from hyperrule.support.progress import Reporter

BACKBONES = ["bit-r26x0.5", "efficientnet-lite0"]
FLIPPED = 0.05  # of the labels
QUIET = Reporter(quiet=True)
HEADER = (
    "| data set, backbone | flipped: N | precision and recall at N (chance) | recall at 2N (chance) "
    "| stand out (flipped) | stand out, none flipped | seconds |\n|---|--:|--:|--:|--:|--:|--:|"
)


@dataclass(frozen=True)
class Found:
    precision: float
    recall: float
    suspected: int
    right: int
    seconds: float


def first_of(examples: Examples, each: int) -> Examples:
    return examples.take(
        np.concatenate([np.flatnonzero(examples.labels == label)[:each] for label in np.unique(examples.labels)])
    )


def flipped(labels: npt.NDArray[np.int32], classes: int, seed: int) -> npt.NDArray[np.int32]:
    """Return int32 labels [N] with a share FLIPPED of them replaced by another class, uniformly at random."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(FLIPPED * len(labels))]
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return wrong


def order_of(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the indices of suspects, the most suspicious first, and how many stand out."""
    probabilities = left_out_probabilities(features, labels, classes, np.arange(len(labels)), QUIET)
    ranking = rank(probabilities, labels, np.ones(len(labels), np.bool_))
    return ranking.order, ranking.suspected


def find(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], wrong: npt.NDArray[np.bool_], classes: int
) -> Found:
    start, count = time.perf_counter(), int(wrong.sum())
    order, suspected = order_of(features, labels, classes)
    seconds = time.perf_counter() - start
    hits = wrong[order]
    return Found(hits[:count].mean(), hits[: 2 * count].sum() / count, suspected, int(hits[:suspected].sum()), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--backbone", action="append", metavar="BACKBONE", dest="backbones")
    parser.add_argument("--each", type=int, default=500, metavar="N")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    args = parser.parse_args()
    rows = [HEADER]
    for dataset in args.datasets:
        for backbone in args.backbones or BACKBONES:
            frozen = frozen_features(Recipe(dataset=dataset, backbone=backbone), None, Reporter())
            examples, classes = (
                first_of(frozen.source.examples("train"), args.each),
                len(frozen.source.listing.class_names),
            )
            features = np.asarray(frozen.features(examples))
            every = []
            for seed in range(args.seeds):
                labels = flipped(examples.labels, classes, seed)
                every.append(find(features, labels, labels != examples.labels, classes))
            unflipped = order_of(features, examples.labels, classes)[1]
            rows.append(
                f"| {dataset}, {frozen.backbone.name} | {round(FLIPPED * len(examples))} of {len(examples):,} "
                f"| {mean(one.precision for one in every):.1%} ({FLIPPED:.0%}) "
                f"| {mean(one.recall for one in every):.1%} ({2 * FLIPPED:.0%}) "
                f"| {mean(one.suspected for one in every):.0f} ({mean(one.right for one in every):.0f}) "
                f"| {unflipped} | {mean(one.seconds for one in every):.1f} |"
            )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
