"""Measure how accurate `hyperrule learning-curve` is: compare its forecasts from part of the labels with more labels.

    scripts/bench learning_curve DATASET... [--backbone BACKBONE]... [--each N] [--seeds N]

DATASET is what finetune takes; at most N (--each) training images of each class are used, and 200 for testing. Parts
are sampled from them, each half of the one before, as if there were no other labels. If the command makes a forecast
from a part, the forecast is compared with the accuracy of probes on twice and four times as many labels, which include
the part. Prints, over all forecasts, the error in points of accuracy, how often the 95 % interval contains the measured
accuracy, and the logarithmic error of gains, which is FORM_ERROR in hyperrule/audit/learning_curve/extrapolate.py.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from hyperrule.audit.learning_curve.curve import a_class
from hyperrule.audit.learning_curve.extrapolate import FITTED, Expected, look_ahead
from hyperrule.audit.learning_curve.measure import halved, measure
from hyperrule.data.images import Examples
from hyperrule.data.selection import nested_subset
from hyperrule.evaluation.features import FrozenFeatures, frozen_features
from hyperrule.evaluation.probe import BLAS_THREADS, fit_probe
from hyperrule.recipe import Recipe
from hyperrule.support.progress import Reporter

BACKBONES = ["bit-r26x0.5", "efficientnet-lite0"]
TESTED = 200  # images of a class, at most
QUIET = Reporter(quiet=True)

Labelled = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]


@dataclass(frozen=True)
class Forecast:
    per_class: float
    now: float
    expected: Expected
    measured: float

    @property
    def error(self) -> float:
        return self.measured - self.expected.top1

    @property
    def inside(self) -> bool:
        return self.expected.low <= self.measured <= self.expected.high

    @property
    def gain_inside(self) -> bool:
        return self.expected.gain_low <= self.measured - self.now <= self.expected.gain_high

    @property
    def log_quotient(self) -> float:
        """log(measured gain / forecast gain); both are at least a tenth of a point, below which a gain is noise."""
        return float(np.log(max(self.measured - self.now, 0.001) / max(self.expected.gain, 0.001)))


def first_of(examples: Examples, each: int) -> Examples:
    return examples.take(
        np.concatenate([np.flatnonzero(examples.labels == label)[:each] for label in np.unique(examples.labels)])
    )


def labelled(frozen: FrozenFeatures, examples: Examples) -> Labelled:
    return np.asarray(frozen.features(examples)), examples.labels


def forecasts(training: Labelled, testing: Labelled, classes: int, seeds: int) -> Iterator[Forecast]:
    features, labels = training
    sizes = halved(np.bincount(labels, minlength=classes))
    for seed in range(seeds):
        parts = [nested_subset(labels, counts, seed) for counts in sizes]
        top1 = [accuracy(features[part], labels[part], testing, classes) for part in parts]
        for known in range(FITTED - 1, len(parts) - 1):
            part = parts[known]
            outlook = look_ahead(measure((features[part], labels[part]), testing, classes, QUIET))
            for expected, measured in zip(outlook.expected, top1[known + 1 :], strict=False):
                yield Forecast(len(part) / classes, top1[known], expected, measured)


def accuracy(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], testing: Labelled, classes: int
) -> float:
    with threadpool_limits(BLAS_THREADS, "blas"):
        scores = fit_probe(features, labels, classes).scores(testing[0])
    return float(np.mean(scores.argmax(axis=1) == testing[1]))


def summary(every: list[Forecast]) -> str:
    errors = np.array([one.error for one in every])
    half = np.mean([(one.expected.high - one.expected.low) / 2 for one in every])
    log_error = np.sqrt(np.mean([one.log_quotient**2 for one in every]))
    return (
        f"{len(every)} forecasts: error {100 * np.abs(errors).mean():.1f} points on average, "
        f"{100 * np.abs(errors).max():.1f} at most, bias {100 * errors.mean():+.1f}; "
        f"{sum(one.inside for one in every)} within the interval ({np.mean([one.inside for one in every]):.0%}) and "
        f"{sum(one.gain_inside for one in every)} of the gains within theirs; "
        f"half an interval is {100 * half:.1f} points; log error of the gain {log_error:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--backbone", action="append", metavar="BACKBONE", dest="backbones")
    parser.add_argument("--each", type=int, default=400, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    args = parser.parse_args()
    every: list[Forecast] = []
    for dataset in args.datasets:
        for backbone in args.backbones or BACKBONES:
            frozen = frozen_features(Recipe(dataset=dataset, backbone=backbone), None, Reporter())
            training = labelled(frozen, first_of(frozen.source.examples("train"), args.each))
            testing = labelled(frozen, first_of(frozen.source.examples("test"), TESTED))
            found = list(forecasts(training, testing, len(frozen.source.listing.class_names), args.seeds))
            print(f"\n{dataset}, {backbone}")
            for one in found:
                forecast = one.expected
                print(
                    f"  from {a_class(one.per_class):>4} a class {one.now:6.1%}, x{forecast.times}: forecast "
                    f"{forecast.top1:6.1%} ({100 * forecast.low:.1f} to {100 * forecast.high:.1f}), "
                    f"measured {one.measured:6.1%}{'' if one.inside else '  outside'}"
                )
            if found:
                print(f"  {summary(found)}", flush=True)
            every += found
    for times in (2, 4):
        if some := [one for one in every if one.expected.times == times]:
            print(f"\nx{times}: {summary(some)}")


if __name__ == "__main__":
    main()
