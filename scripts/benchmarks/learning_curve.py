"""How far off `hyperrule learning-curve` is: curves cut short, continued to twice and four times the labels.

    scripts/bench learning_curve DATASET... [--backbone BACKBONE]... [--each N]

DATASET is what finetune takes; at most N training images of each class count. A forecast is made wherever four sizes
are known and the next one, or the one after, was measured. Gains in points of accuracy: what was foretold, what came.
"""

import argparse

import numpy as np

from hyperrule.insight.extrapolate import FITTED, TIMES, law_of
from hyperrule.insight.frozen import freeze
from hyperrule.insight.measure import Measured, measure
from hyperrule.insight.power_law import power_law
from hyperrule.progress import Reporter
from hyperrule.recipe import Recipe


def gains(measured: Measured) -> list[tuple[int, float, float]]:
    """Times the labels, the gain foretold and the gain that came, of every forecast that can be judged."""
    top1 = measured.top1.mean(axis=1)
    judged = []
    for known in range(FITTED, len(top1)):
        short = Measured(measured.labels[:known], measured.correct[:known])
        law = law_of(short)
        for ahead, times in enumerate(TIMES):
            if known + ahead < len(top1):
                now, grown = top1[known - 1], measured.labels[known + ahead] / measured.labels[known - 1]
                judged.append((times, float(power_law(grown, *law)) - now, top1[known + ahead] - now))
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--backbone", action="append", metavar="BACKBONE", dest="backbones")
    parser.add_argument("--each", type=int, default=500, metavar="N")
    asked = parser.parse_args()
    every = []
    for dataset in asked.datasets:
        for backbone in asked.backbones or ["bit-r26x0.5", "efficientnet-lite0"]:
            frozen = freeze(Recipe(dataset=dataset, backbone=backbone), None, Reporter())
            training, testing = frozen.source.examples("train"), frozen.source.examples("test")
            places = [np.flatnonzero(training.labels == label)[: asked.each] for label in np.unique(training.labels)]
            training = training.take(np.concatenate(places))
            pairs = [(frozen.features(images), images.labels) for images in (training, testing)]
            judged = gains(measure(*pairs, len(frozen.source.listing.class_names), frozen.reporter))
            said = "  ".join(f"x{times} {100 * foretold:.1f} {100 * came:.1f}" for times, foretold, came in judged)
            print(f"{dataset} {backbone}: {said}", flush=True)
            every += judged
    quotients = np.array([came / foretold for _, foretold, came in every])
    error = np.sqrt(np.mean(np.log(np.maximum(quotients, 0.05)) ** 2))
    low, middle, high = np.quantile(quotients, [0, 0.5, 1])
    print(
        f"{len(every)} forecasts, came / foretold {low:.2f} to {high:.2f}, median {middle:.2f}, log error {error:.2f}"
    )


if __name__ == "__main__":
    main()
