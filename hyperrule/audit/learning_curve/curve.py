"""Would more labels help? What `hyperrule learning-curve` finds."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hyperrule.audit.frozen import Frozen
from hyperrule.audit.learning_curve.extrapolate import BackTest, Expected, Outlook, PowerLaw, Verdict, look_ahead
from hyperrule.audit.learning_curve.measure import SEEDS, Measured, measure
from hyperrule.data import Split
from hyperrule.support.files import whole_file


class Point(BaseModel):
    """Test accuracy of probes of so many training images, `per_class` a class in the mean: mean, lowest and highest of
    `subsets`."""

    model_config = ConfigDict(frozen=True)

    labels: int
    per_class: float
    subsets: int
    top1: float
    low: float
    high: float


class LearningCurve(BaseModel):
    """`points` ascend to all labels there are; `examples` images of `split` test them. `law` and `back_test` may be
    None, and `expected` empty, where the verdict is that nothing can be foretold."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    backbone: str
    size: int
    classes: int
    split: Split
    origin: str
    examples: int
    points: tuple[Point, ...]
    verdict: Verdict
    law: PowerLaw | None
    expected: tuple[Expected, ...]
    back_test: BackTest | None

    def write_page(self, file: Path) -> None:
        """One HTML page that needs nothing else. Raises RunError if it cannot be written."""
        from hyperrule.audit.learning_curve.page import render_page

        page = render_page(self)
        with whole_file(file) as partial:
            partial.write_text(page, encoding="utf-8")


def find_learning_curve(frozen: Frozen) -> LearningCurve:
    """Measure on the split that `finetune` would be judged by, and look ahead. Raises what `Frozen.features` raises."""
    source = frozen.source
    split: Split = "test" if "test" in source.splits else "validation"
    training, testing = source.examples("train"), source.examples(split)
    classes = len(source.listing.class_names)
    measured = measure(
        (frozen.features(training), training.labels),
        (frozen.features(testing), testing.labels),
        classes,
        frozen.reporter,
    )
    outlook: Outlook = look_ahead(measured)
    return LearningCurve(
        dataset=source.name,
        backbone=frozen.backbone.name,
        size=frozen.size,
        classes=classes,
        split=split,
        origin=source.info.splits[split].origin,
        examples=len(testing),
        points=_points(measured, classes),
        verdict=outlook.verdict,
        law=outlook.law,
        expected=outlook.expected,
        back_test=outlook.back_test,
    )


def _points(measured: Measured, classes: int) -> tuple[Point, ...]:
    return tuple(
        Point(
            labels=labels,
            per_class=labels / classes,
            subsets=1 if labels == measured.labels[-1] else SEEDS,
            top1=top1.mean(),
            low=top1.min(),
            high=top1.max(),
        )
        for labels, top1 in zip(measured.labels.tolist(), measured.top1, strict=True)
    )
