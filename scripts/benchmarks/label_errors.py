"""How many wrong labels `hyperrule label-errors` finds: 5 % of the training labels flipped to another class by a seed.

    scripts/bench label_errors [--seeds N]

Of CIFAR-10 500 training images of each class, of clothing all 40, from the archives in the folder that
HYPERRULE_TEST_DATA names. Precision among the first N, N being the number flipped, and the share found among the first
2 N; by chance, both would be 5 % and 10 %. Then what stands out, with and without flips.
"""

import argparse
import os
import tarfile
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt

from hyperrule.backbones.describe import describe_backbone
from hyperrule.benchmark.features import features_of
from hyperrule.data import Examples, open_source
from hyperrule.insight.folds import FOLDS, deal, out_of_fold
from hyperrule.insight.frozen import SIDE
from hyperrule.insight.suspects import rank
from hyperrule.progress import Reporter

DATA = Path(os.environ.get("HYPERRULE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
BACKBONES = ("bit-r26x0.5", "efficientnet-lite0")
FLIPPED, EACH = 0.05, 500  # of the labels; images of a class at most
QUIET = Reporter(quiet=True)


def data_set(name: str, scratch: Path) -> Examples:
    with tarfile.open(DATA / f"{name}.tar.gz") as tar:
        tar.extractall(scratch / name, filter="data")
    root = next(folder.parent for folder in sorted((scratch / name).rglob("train")))
    examples = open_source(str(root), reporter=QUIET).examples("train")
    return examples.take(
        np.concatenate([np.flatnonzero(examples.labels == label)[:EACH] for label in np.unique(examples.labels)])
    )


def flipped(labels: npt.NDArray[np.int32], seed: int) -> npt.NDArray[np.int32]:
    """Labels [N], of which a twentieth are other classes, each as likely."""
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    chosen = rng.permutation(len(labels))[: round(FLIPPED * len(labels))]
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return wrong


def found(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], int]:
    """Images in the order of suspicion, and how many stand out."""
    classes, alone = int(labels.max()) + 1, np.arange(len(labels))
    probabilities = out_of_fold(features, labels, classes, deal(labels, alone, FOLDS, 0), QUIET)
    ranking = rank(probabilities, labels, np.ones(len(labels), np.bool_))
    return ranking.order, ranking.suspected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("cifar10", "clothing"):
            examples = data_set(name, Path(scratch))
            count = round(FLIPPED * len(examples))
            for backbone in BACKBONES:
                features = np.asarray(features_of(describe_backbone(backbone, QUIET), examples, SIDE, Reporter()))
                precisions, recalls, standing, right = [], [], [], []
                for seed in range(seeds):
                    labels = flipped(examples.labels, seed)
                    wrong = labels != examples.labels
                    order, suspected = found(features, labels)
                    precisions.append(wrong[order[:count]].mean())
                    recalls.append(wrong[order[: 2 * count]].sum() / count)
                    standing.append(suspected)
                    right.append(int(wrong[order[:suspected]].sum()))
                unflipped = found(features, examples.labels)[1]
                print(
                    f"{name:9} {backbone:18} {count} of {len(examples)} flipped: precision at {count} "
                    f"{mean(precisions):.1%} (chance {FLIPPED:.0%}), recall at {2 * count} {mean(recalls):.1%} "
                    f"(chance {2 * FLIPPED:.0%}); {mean(standing):.0f} stand out, {mean(right):.0f} of them flipped; "
                    f"unflipped, {unflipped} stand out",
                    flush=True,
                )


if __name__ == "__main__":
    main()
