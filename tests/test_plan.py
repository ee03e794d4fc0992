"""Decisions of the plan that depend on recipe and machine."""

from pathlib import Path

import pytest

import hyperrule
from hyperrule.backbones.describe import describe_backbone
from hyperrule.cli.options import collect
from hyperrule.data.open import open_source
from hyperrule.planning.cost import fit, fit_inference, memory_bytes
from hyperrule.planning.finetune import make_plan
from hyperrule.planning.finetune_plan import Plan
from hyperrule.planning.machine.machine import Gpu, Machine
from hyperrule.planning.training_plan import Calibration
from hyperrule.recipe import Recipe, make_recipe
from hyperrule.rule import schedule


def planned(machine: Machine, **options: object) -> Plan:
    recipe = make_recipe({"dataset": "digits", **options}, Recipe)
    return make_plan(recipe, open_source("digits"), describe_backbone(recipe.backbone), machine)


def machine_of(gpus: int = 0, compute_capability: float = 8.0, cpu_bfloat16: bool = False) -> Machine:
    gpu = Gpu(name="Some GPU", memory=40 * 2**30, compute_capability=compute_capability)
    return Machine(
        cores=8,
        memory=64 * 2**30,
        available_memory=32 * 2**30,
        gpus=(gpu,) * gpus,
        cpu_bfloat16=cpu_bfloat16,
        gigaflops=500.0,
    )


@pytest.mark.parametrize(
    ("machine", "precision"),
    [
        (machine_of(1), "bfloat16"),
        (machine_of(1, compute_capability=7.5), "float16"),
        (machine_of(1, compute_capability=6.1), "float32"),
        (machine_of(), "float32"),
        (machine_of(cpu_bfloat16=True), "bfloat16"),
    ],
)
def test_precision_follows_the_device(machine: Machine, precision: str) -> None:
    assert planned(machine).precision.value == precision
    assert planned(machine, precision="float32").precision.value == "float32"


@pytest.mark.parametrize(
    ("gpus", "batch", "micro_batch"),
    [(0, 512, 64), (0, 97, 49), (0, 10, 10), (1, 512, 512), (4, 512, 128), (3, 512, 171)],
)
def test_micro_batch_is_an_equal_part_of_each_devices_share(gpus: int, batch: int, micro_batch: int) -> None:
    assert planned(machine_of(gpus), batch=batch).micro_batch.value == micro_batch


def test_micro_batch_shrinks_until_it_fits() -> None:
    small = machine_of().model_copy(update={"available_memory": 6 * 2**30})
    plan = planned(small, backbone="random-r50x1", crop=480)
    assert 1 < plan.micro_batch.value < 16
    assert 0.6 * small.available_memory < plan.estimate.memory <= 0.8 * small.available_memory


def test_limit_decides_what_is_in_memory_at_once_and_is_given_as_the_reason() -> None:
    large = planned(machine_of(), backbone="random-r50x1", crop=480, batch=64)
    limited = planned(machine_of(), backbone="random-r50x1", crop=480, batch=64, memory_limit="4GiB")
    assert limited.micro_batch.value < large.micro_batch.value
    assert limited.estimate.memory < 4 * 2**30 < large.estimate.memory
    assert "limit of 4 GiB" in limited.micro_batch.reason


def test_inference_takes_as_many_images_as_fit_up_to_32() -> None:
    roomy, tight = machine_of(), machine_of().model_copy(update={"available_memory": 2**30})
    assert [fit_inference(R50X1, 128, examples, roomy) for examples in (5, 32, 1000)] == [5, 32, 32]
    assert 1 <= fit_inference(R50X1, 480, 1000, tight) < 32


def test_recomputation_is_chosen_where_nothing_else_fits_and_said() -> None:
    tight = planned(machine_of(), backbone="random-r50x1", crop=1024, precision="float32", memory_limit="2.9GiB")
    assert tight.remat.value
    assert (
        tight.estimate.memory
        < planned(
            machine_of(), backbone="random-r50x1", crop=1024, precision="float32", micro_batch=1, remat=False
        ).estimate.memory
    )
    assert not planned(machine_of(), backbone="random-r50x1", crop=128).remat.value


def test_workers_share_the_batch() -> None:
    recipe = make_recipe({"dataset": "digits", "batch": 64}, Recipe)
    backbone = describe_backbone(recipe.backbone)
    plan = make_plan(recipe, open_source("digits"), backbone, machine_of(gpus=2), workers=4)
    assert plan.micro_batch.value == 8


def test_xla_and_devices_of_a_recipe() -> None:
    assert planned(machine_of(), xla=True).xla.value  # YAML's on
    assert not planned(machine_of()).xla.value
    tpu = planned(machine_of(), devices="tpu")
    assert (tpu.precision.value, tpu.micro_batch.value) == ("bfloat16", 64)


R50X1 = describe_backbone("random-r50x1")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("network", "crop"), [("random-r26x0.5", 128), ("random-r50x1", 128), ("random-r50x1", 480)])
def test_memory_grows_with_what_is_kept(network: str, crop: int, precision: str) -> None:
    backbone = describe_backbone(network)
    kept, recomputed = (
        [memory_bytes(backbone, crop, size, precision, remat) for size in (64, 128)] for remat in (False, True)
    )
    assert kept[0] < kept[1]
    assert all(less < more for less, more in zip(recomputed, kept, strict=True))
    assert memory_bytes(backbone, crop, 64, "bfloat16") < memory_bytes(backbone, crop, 64, "float32")


# Peaks of the resident set, in MiB, by scripts/bench memory; 25 % is what it is held to there.
@pytest.mark.parametrize(
    ("crop", "micro_batch", "precision", "remat", "measured"),
    [
        (128, 1, "float32", False, 1767),
        (128, 16, "bfloat16", False, 1991),
        (224, 16, "float32", False, 3029),
        (480, 4, "float32", False, 3041),
        (480, 4, "float32", True, 2210),
    ],
)
def test_memory_is_what_was_measured(crop: int, micro_batch: int, precision: str, remat: bool, measured: int) -> None:
    assert memory_bytes(R50X1, crop, micro_batch, precision, remat) / 2**20 == pytest.approx(measured, rel=0.25)


def test_recomputation_is_chosen_where_nothing_else_fits_or_micro_batches_would_be_slow() -> None:
    machine = machine_of()

    def chosen(crop: int, gibibytes: float, remat: bool | None = None) -> tuple[int, bool]:
        return fit(R50X1, crop, 64, "float32", machine, int(gibibytes * 2**30), remat)

    assert chosen(480, 32) == (32, False)
    size, remat = chosen(480, 4)
    assert size > 1
    assert not remat
    least = memory_bytes(R50X1, 480, 1, "float32") / 0.8 / 2**30
    assert chosen(480, least)[1] is False
    assert chosen(480, least - 0.01)[1] is True
    assert chosen(480, 1) == (1, True)
    assert chosen(480, 4, remat=True)[0] > size
    assert chosen(480, 1, remat=False) == (1, False)


@pytest.mark.parametrize(
    ("options", "batch", "rate", "steps", "deviates"),
    [
        ({}, 512, 0.003, 500, False),
        ({"preset": "light"}, 128, 0.001, 500, False),
        ({"batch": 128}, 128, 0.00075, 2000, True),
        ({"preset": "light", "batch": 64}, 64, 0.0005, 1000, True),
        ({"batch": 64, "epochs": 2}, 64, 0.000375, 45, True),
        ({"steps": 7}, 512, 0.003, 7, True),
    ],
)
def test_batch_rate_and_schedule_scale_together(
    options: dict[str, object], batch: int, rate: float, steps: int, deviates: bool
) -> None:
    plan = planned(machine_of(), **options)
    assert plan.batch.value == batch
    assert plan.base_lr.value == pytest.approx(rate)
    assert plan.schedule.value == schedule(1).stretched(steps)
    assert plan.schedule.deviates == deviates


def test_few_shot_subset_is_the_set_that_the_rule_sees() -> None:
    plan = planned(machine_of(), examples_per_class=10, mixup=0.2)
    assert plan.examples.value == 100
    assert (plan.mixup.value, plan.mixup.deviates) == (0.2, True)


def test_every_decision_has_reason_and_source_and_survives_json() -> None:
    plan = planned(machine_of())
    assert all(decided.reason and decided.source for decided in plan.decisions.values())
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert set(plan.deviations) == {"random_crop", "random_flip"}  # digits: both would destroy the label


def test_calibration_counts_evaluations_on_the_way() -> None:
    options = {"budget": "100s", "backbone": "bit-r26x0.5"}
    plan = planned(machine_of(), eval_every=10, **options)
    steps = plan.calibrated(Calibration(elapsed=20, step=1, evaluation=5)).schedule.value.steps
    assert steps == 40  # 100 = 20 before + 40 steps + 4 evaluations on the way + 1 at the end + 15 to finish
    without = planned(machine_of(), **options)
    assert without.calibrated(Calibration(elapsed=20, step=1, evaluation=5)).schedule.value.steps == 60
    generous = without.calibrated(Calibration(elapsed=20, step=0.001, evaluation=5))
    assert generous.schedule.value == without.schedule.value
    with pytest.raises(hyperrule.UserError, match=r"leaves no time for training.*more than 2.25 min"):
        without.calibrated(Calibration(elapsed=110, step=1, evaluation=9))


def test_a_flag_overrides_the_recipes_length_whatever_its_kind() -> None:
    assert collect("digits", (), {"steps": "3", "batch": None})["steps"] == "3"
    assert "budget" not in collect("digits", (), {"steps": "3"})
    assert collect("digits", ("epochs=2",), {})["epochs"] == 2


def test_paths_may_be_path_objects(image_folder: Path) -> None:
    assert hyperrule.plan(dataset=image_folder).class_names == ("cold", "warm")


def test_where_files_lie_and_how_a_batch_is_cut_are_no_differences(tmp_path: Path, image_folder: Path) -> None:
    plan = hyperrule.plan(dataset=image_folder)
    moved = image_folder.rename(tmp_path / "moved")
    assert plan.differences(hyperrule.plan(dataset=moved, micro_batch=2)) == []
    assert plan.differences(hyperrule.plan(dataset=moved, seed=1)) == ["seed: 0, not 1"]
