"""The main job on real photographs; skipped if they are not available."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hyperrule
from hyperrule.rule import Schedule

RealData = Callable[[str], Path]


def test_rule_reads_cifar10_as_small_images_in_a_medium_set(real_data: RealData) -> None:
    plan = hyperrule.plan(dataset=str(real_data("cifar10")))
    assert plan.examples.value == 50_000
    assert (plan.resize.value, plan.crop.value, plan.mixup.value) == (160, 128, 0.1)
    assert plan.schedule.value == Schedule(10_000, 500, (3000, 6000, 9000))
    assert plan.dataset.splits["test"].examples == 10_000


@pytest.mark.parametrize(("rule", "sizes"), [("code", (512, 480)), ("paper", (448, 384))])
def test_rule_reads_clothing_as_large_images_in_a_small_set(
    rule: str, sizes: tuple[int, int], real_data: RealData
) -> None:
    plan = hyperrule.plan(dataset=str(real_data("clothing") / "clothing-sub"), rule=rule)
    assert (plan.resize.value, plan.crop.value) == sizes
    assert (plan.dataset.height, plan.dataset.width) == (533, 400)
    assert plan.schedule.value.steps == 500
    assert (plan.test_split.value, plan.eval_split.value) == ("test", "validation")


def test_sign_digits_are_learnt_from_ten_images_a_class(real_data: RealData, tmp_path: Path) -> None:
    """Upper-case extensions, three large photographs, and classes that are numbers. 56 % when measured."""
    result = hyperrule.finetune(
        dataset=str(real_data("sign-digits") / "sign-digits" / "Dataset"),
        examples_per_class=10,
        head_init="probe",
        random_flip=False,
        crop=96,
        batch=16,
        steps=4,
        out=tmp_path / "run",
        quiet=True,
    )
    assert result.metrics.examples == result.plan.dataset.splits["test"].examples == 411
    assert result.metrics.top1 > 0.35
    rows = pq.read_table(result.run.predictions_file).to_pylist()
    assert all(row["id"] == f"{row['label']}/{row['id'].split('/')[1]}" for row in rows)
