"""A time budget: what is chosen for it, that it is kept, and that its result is never worse than its start."""

import json
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SMALL
from modules import golden_arrays

import hyperrule
from hyperrule.api.training import _warn_if_long
from hyperrule.backbones.bit.checkpoints import read_arrays, write_arrays
from hyperrule.backbones.describe import backbones_at_hand
from hyperrule.errors import Interrupted
from hyperrule.jobs import finetune
from hyperrule.planning.budget import SIZES, Clock, Demand, Trial, choose, next_size, seconds_at
from hyperrule.planning.training_plan import FINISHING, Calibration
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Reporter
from hyperrule.training.step import TrainingStep

OPTIONS = {"backbone": SMALL["backbone"], "precision": "float32", "quiet": True}


def demand(training: int = 1000, evaluated: int = 500, crop: int = 480, **others: Any) -> Demand:
    return Demand(training=training, evaluated=evaluated, crop=crop, images=500 * 512, **others)


def trial(size: int, accuracy: float, backbone: str = "a", decoding: float = 0.002) -> Trial:
    """On a machine that takes 7 ms for 224 px, beside decoding."""
    seconds = decoding + 0.007 * (size / 224) ** 2
    return Trial(backbone=backbone, size=size, seconds=seconds, examples=200, accuracy=accuracy)


def tried(needed: Demand, left: float, accuracy: dict[int, float]) -> list[int]:
    trials: list[Trial] = []
    while (size := next_size(trials, needed, left)) is not None:
        trials.append(trial(size, accuracy.get(size, size / 1000)))
    return [one.size for one in trials]


def test_sizes_are_tried_up_to_what_the_time_allows() -> None:
    assert tried(demand(), 30, {}) == [128, 96]  # for 128 px, the smallest so far, is the best
    assert tried(demand(), 90, {}) == [128, 288, 352]
    assert tried(demand(), 10_000, {}) == [128, 480]
    assert tried(demand(crop=128), 10_000, {}) == [128, 96]
    assert tried(demand(), 60, {64: 0.8, 96: 0.9, 128: 0.8}) == [128, 224, 288, 96, 64]
    assert tried(demand(training=5000), 30, {})[-1] == SIZES[0]  # not even the middle one fits
    assert tried(demand(only_size=300), 60, {}) == [300]
    assert tried(demand(crop=200, asked_crop=True), 60, {}) == [200]


def test_time_of_a_size_is_a_line_in_its_pixels() -> None:
    trials = [trial(96, 0), trial(224, 0)]
    assert seconds_at(trials, 352) == pytest.approx(trial(352, 0).seconds)
    assert seconds_at(trials[:1], 192) == 4 * trials[0].seconds


def test_the_most_accurate_trial_wins_whose_features_fit() -> None:
    trials = [trial(128, 0.7), trial(224, 0.8), trial(480, 0.9), trial(128, 0.75, "b")]
    demands = {"a": demand(), "b": demand()}
    assert choose(trials, demands, 60).best == trials[1]
    assert choose(trials, demands, 600).best == trials[2]
    assert choose(trials, demands, FINISHING + 1).best.size == 128  # too little for any: the fastest
    assert choose([trial(128, 0.7), trial(224, 0.7)], demands, 600).best.size == 128


def test_batches_grow_with_the_time_up_to_the_rule_itself() -> None:
    trials, demands = [trial(480, 0.9)], {"a": demand()}
    choices = [choose(trials, demands, left) for left in (300, 3000, 30_000, 100_000)]
    assert [choice.batch for choice in choices] == [32, 128, 512, 512]
    assert [choice.whole_rule for choice in choices] == [False, False, False, True]


def test_the_whole_rule_runs_where_the_time_suffices(image_folder: Path) -> None:
    plan = hyperrule.plan(dataset=image_folder, backbone=SMALL["backbone"], budget="1000h")
    rule = hyperrule.plan(dataset=image_folder, backbone=SMALL["backbone"])
    assert plan.differences(rule) == []
    shorter = hyperrule.plan(dataset=image_folder, backbone=SMALL["backbone"], budget="5m")
    assert shorter.deviations.keys() >= {"batch", "head_init", "optimizer", "held_out"}


def test_requests_are_kept(image_folder: Path) -> None:
    options = {"dataset": image_folder, "backbone": SMALL["backbone"], "budget": "5m"}
    plan = hyperrule.plan(**options, crop=96, batch=24, base_lr=0.01, head_init="zeros", train="head")
    assert (plan.crop.value, plan.batch.value, plan.base_lr.value) == (96, 24, 0.01)
    assert (plan.head_init.value, plan.train.value) == ("zeros", "head")


def test_auto_is_the_default_with_a_budget_only(image_folder: Path) -> None:
    assert hyperrule.plan(dataset=image_folder).recipe.backbone == "bit-r26x0.5"
    plan = hyperrule.plan(dataset=image_folder, budget="5m")
    assert (plan.recipe.backbone, plan.backbone.name) == ("auto", backbones_at_hand()[0].name)
    with pytest.raises(hyperrule.UserError, match="backbone auto is the best within a time: add --budget"):
        hyperrule.plan(dataset=image_folder, backbone="auto")


@pytest.fixture
def twenty_steps(monkeypatch: pytest.MonkeyPatch, without_export: None) -> None:
    """A budget of a minute is said to leave time for twenty steps, on whatever machine this is."""
    calibration = Calibration(elapsed=1, step=(60 - 1 - 1 - FINISHING) / 20.5, evaluation=1)
    monkeypatch.setattr("hyperrule.jobs.finetune.estimated_calibration", lambda *_: calibration)


def little_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take 0.3 s, and after ten of them there is time for a few more only."""
    update, calls = TrainingStep.update, count(1)

    def slow(step: TrainingStep, rate: float) -> object:
        time.sleep(0.3)
        if next(calls) == 10:
            monkeypatch.setattr(Clock, "left", property(lambda _: FINISHING + 1 + 1.5))
        return update(step, rate)

    monkeypatch.setattr(TrainingStep, "update", slow)


def test_slower_steps_shorten_the_schedule_and_the_better_end_is_kept(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twenty_steps: None
) -> None:
    little_left(monkeypatch)
    result = hyperrule.finetune(dataset=image_folder, out=tmp_path / "run", budget="60s", **OPTIONS)
    plan = result.run.read_plan()
    assert plan.choice.measured
    assert "the schedule was shortened from 20 steps at step 10" in plan.schedule.reason
    steps = [line for line in result.run.read_metrics() if line["kind"] == "step"]
    assert len(steps) == plan.schedule.value.steps <= 15
    assert plan.calibration.shortened[-1][1] == len(steps)
    kept = result.metrics.kept
    assert (kept.examples, kept.judged_on) == (plan.held_out.value, "held-out training images")
    assert kept.kept == ("end" if kept.end_loss < kept.start_loss else "start")
    assert json.loads(result.run.eval_file.read_text())["kept"]["kept"] == kept.kept
    assert str(kept).capitalize() in result.run.card_file.read_text()


def test_training_that_does_not_help_is_undone(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twenty_steps: None
) -> None:
    losses = iter([{"loss": 0.1, "top1": 1.0}, {"loss": 0.2, "top1": 0.5}])
    monkeypatch.setattr(finetune, "_judged", lambda *_: next(losses))
    original = golden_arrays()
    write_arrays(tmp_path / "bit.npz", original)
    options = {**OPTIONS, "backbone": tmp_path / "bit.npz"}
    result = hyperrule.finetune(dataset=image_folder, out=tmp_path / "run", budget="60s", **options)
    assert result.metrics.kept.kept == "start"
    for name, array in read_arrays(result.run.weights_file).items():
        assert name not in original or np.array_equal(array, original[name])
    assert result.metrics.top1 > 0.5  # of the probe


def test_no_time_for_training_leaves_the_probe(image_folder: Path, tmp_path: Path, without_export: None) -> None:
    result = hyperrule.finetune(dataset=image_folder, out=tmp_path / "run", budget="1s", **OPTIONS)
    assert result.plan.schedule.value.steps == 0
    assert "the probe is the result" in result.plan.schedule.reason
    assert result.metrics.top1 == 1.0


def test_resumed_with_the_time_that_is_left(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twenty_steps: None
) -> None:
    little_left(monkeypatch)
    append = RunFolder.append_metrics

    def stopping(run: RunFolder, line: dict[str, Any]) -> None:
        append(run, line)
        if line["kind"] == "step" and "was shortened" in run.plan_file.read_text():
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", stopping)
        with pytest.raises(Interrupted):
            hyperrule.finetune(dataset=image_folder, out=tmp_path / "run", budget="60s", **OPTIONS)
    run = RunFolder(tmp_path / "run")
    spent = max(line["elapsed"] for line in run.read_metrics() if line["kind"] == "step")
    clocks: list[Clock] = []
    monkeypatch.setattr("hyperrule.api.training.Clock", lambda *values: clocks.append(Clock(*values)) or clocks[-1])
    monkeypatch.setattr("hyperrule.jobs.budget.surveyed", lambda *_: pytest.fail("measured again"))
    assert hyperrule.resume(run.path, quiet=True).metrics.kept is not None
    assert clocks[0].first == pytest.approx(spent, abs=3)
    assert clocks[0].elapsed >= spent


def test_long_training_is_announced_with_what_would_be_faster(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperrule.api.training.LONG", 0.0)
    _warn_if_long(hyperrule.plan(dataset=image_folder), Reporter())
    said = capsys.readouterr().err
    assert "This trains for about" in said
    assert said.count("faster: --") == 2
    _warn_if_long(hyperrule.plan(dataset=image_folder, steps=10), Reporter())
    assert capsys.readouterr().err == ""
