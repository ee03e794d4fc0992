"""Measure how good a backbone's features are: a closed-form probe, tested on images that no embedded backbone has seen.

    scripts/bench probe BACKBONE... [--json]

The probe (l2 = 2^10) is fitted to 5 and 25 labelled images of each class, resized to 128 x 128 pixels; figures are
medians of 5 subsets. The images come from archives in the folder that HYPERRULE_TEST_DATA names. Of each class, for
labels and for testing: CIFAR-10, 60 of train and 60 of test; sign-digits, files 1 to 60 and 61 to 120; clothing, the 40
of train and up to 60 of test; also scikit-learn's digits, 60 and 60, which no distillation pool contains.
"""

import argparse
import json
import os
import statistics
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hyperrule.backbones.describe import describe_backbone
from hyperrule.data.images import Examples, Files
from hyperrule.data.open import open_source
from hyperrule.evaluation.inference import Evaluator
from hyperrule.evaluation.probe import fit_probe
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.support.progress import Reporter
from hyperrule.training.classifier import load_classifier
from hyperrule.training.workers import Workers

DATA = Path(os.environ.get("HYPERRULE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SIDE, SHOTS, SUBSETS, EACH = 128, (5, 25), 5, 60


class Task(NamedTuple):
    name: str
    pool: Examples
    test: Examples


def tasks(scratch: Path) -> Iterator[Task]:
    for name in ("cifar10", "sign-digits", "clothing"):
        with tarfile.open(DATA / f"{name}.tar.gz") as tar:
            tar.extractall(scratch / name, filter="data")
    cifar, clothing = scratch / "cifar10", scratch / "clothing" / "clothing-sub"
    yield Task("CIFAR-10", first_of(cifar / "train"), first_of(cifar / "test"))
    signs = scratch / "sign-digits" / "sign-digits" / "Dataset"
    yield Task("sign-digits", first_of(signs), first_of(signs, EACH))
    yield Task("clothing", first_of(clothing / "train"), first_of(clothing / "test"))
    digits = open_source("digits", reporter=Reporter(quiet=True)).examples("train")
    yield Task("digits", within(digits, 0), within(digits, EACH))


def first_of(folder: Path, start: int = 0) -> Examples:
    """Return at most EACH files of every class folder, from index `start`."""
    if not any(child.is_dir() for child in folder.iterdir()):
        raise SystemExit(f"{folder} has no class folders")
    names, labels = [], []
    for label, child in enumerate(sorted(child for child in folder.iterdir() if child.is_dir())):
        chosen = sorted(child.iterdir())[start : start + EACH]
        names += [str(file.relative_to(folder)) for file in chosen]
        labels += [label] * len(chosen)
    return Examples(names, np.array(labels, np.int32), Files.of(folder, names))


def within(examples: Examples, start: int) -> Examples:
    """Return EACH examples of every class, from index `start`."""
    members = [np.flatnonzero(examples.labels == label)[start : start + EACH] for label in np.unique(examples.labels)]
    return examples.take(np.concatenate(members))


def accuracies(evaluator: Evaluator, task: Task) -> dict[int, float]:
    """Return median accuracy in percent by number of shots."""
    features, test = evaluator.features(task.pool), evaluator.features(task.test)
    classes = int(task.pool.labels.max()) + 1
    found = {}
    for shots in SHOTS:
        right = []
        for seed in range(SUBSETS):
            rng = np.random.default_rng(seed)
            members = [rng.permutation(np.flatnonzero(task.pool.labels == label))[:shots] for label in range(classes)]
            chosen = np.concatenate(members)
            probe = fit_probe(features[chosen], task.pool.labels[chosen], classes)
            right.append(100 * float(np.mean(probe.scores(test).argmax(axis=1) == task.test.labels)))
        found[shots] = round(statistics.median(right), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+", metavar="BACKBONE")
    parser.add_argument("--json", action="store_true", help="a line for each backbone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        every = list(tasks(Path(scratch)))
        for name in args.backbones:
            info = describe_backbone(name, Reporter())
            classifier = load_classifier(info, 1)
            evaluator = Evaluator(classifier, SIDE, 64, Workers(tf.distribute.get_strategy(), Cluster()))
            found = {task.name: accuracies(evaluator, task) for task in every}
            counted = [value for task, by_shots in found.items() if task != "digits" for value in by_shots.values()]
            mean = round(statistics.mean(counted), 1)
            norm = float(np.linalg.norm(evaluator.features(every[-1].test), axis=1).mean())
            if args.json:
                print(json.dumps({"backbone": name, **found, "mean of six": mean, "norm": round(norm, 1)}), flush=True)
                continue
            figures = "  ".join(f"{task} {by[5]:.1f} / {by[25]:.1f}" for task, by in found.items())
            print(f"{info.name}: {figures}  mean of six {mean:.1f}  feature norm on digits {norm:.0f}", flush=True)


if __name__ == "__main__":
    main()
