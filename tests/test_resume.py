"""Runs that are stopped, killed or moved, and resume to the same bits; and resumes that are refused."""

import json
import os
import random
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import SMALL, flags, run, start
from devices import strategy_of
from writers import LabelledImage, tar_shards

import hyperrule
from hyperrule.data.pipeline import MicroBatch
from hyperrule.errors import Interrupted, RunError, RunFolderError
from hyperrule.evaluation.inference import Evaluator
from hyperrule.jobs.budget import calibrate
from hyperrule.jobs.job import Job
from hyperrule.planning.training_plan import Calibration
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Report
from hyperrule.training.step import TrainingStep

pytestmark = pytest.mark.usefixtures("module_without_export")
KILLS = int(os.environ.get("HYPERRULE_TEST_KILLS", "2"))


def steps_done(folder: Path) -> int:
    return sum(line["kind"] == "step" for line in RunFolder(folder).read_metrics())


@pytest.fixture(scope="module")
def uninterrupted(module_without_export: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of random images and a run on it that nothing disturbed."""
    from PIL import Image

    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs") / "whole"
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (data / name).mkdir()
        for index in range(10):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(data / name / f"{index}.png")
    hyperrule.finetune(dataset=str(data), out=out, quiet=True, **SMALL)
    return {"data": data, "out": out}


def same_weights(one: Path, other: Path) -> bool:
    with np.load(RunFolder(one).weights_file) as a, np.load(RunFolder(other).weights_file) as b:
        return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)


def test_killed_at_any_moment_and_resumed_ends_in_the_same_bits(uninterrupted: dict[str, Path], tmp_path: Path) -> None:
    """kill -9 at random moments of the work, resume after each; HYPERRULE_TEST_KILLS says how often."""
    out, whole, moments = tmp_path / "run", tmp_path / "whole", random.Random(0)
    options = {**SMALL, "steps": 12 * KILLS}
    begin = ["finetune", "--dataset", str(uninterrupted["data"]), "--out", str(out), *flags(options)]
    killed_at = []
    for _ in range(KILLS):
        process = start(*(["finetune", "--resume", str(out)] if out.exists() else begin))
        before = steps_done(out)
        while process.poll() is None and steps_done(out) <= before:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed_at.append(steps_done(out))
    print(f"killed after {killed_at} of {options['steps']} steps")
    code, _, stderr = run("finetune", "--resume", str(out))
    assert code == 0, stderr
    hyperrule.finetune(dataset=uninterrupted["data"], out=whole, quiet=True, **options)
    assert same_weights(out, whole)
    assert [line["step"] for line in RunFolder(out).read_metrics()] == list(range(1, 12 * KILLS + 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_a_checkpoint_and_say_how_to_go_on(
    number: signal.Signals, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = {**SMALL, "checkpoint_every": 1000}
    process = start("finetune", "--dataset", str(uninterrupted["data"]), "--out", str(out), *flags(options))
    while process.poll() is None and steps_done(out) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert process.returncode == 128 + number
    assert stdout == ""
    assert f"hyperrule finetune --resume {out}" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert list((out / "checkpoints").glob("*.npz"))
    hyperrule.resume(out, quiet=True)
    assert same_weights(out, uninterrupted["out"])


def test_run_that_fails_at_its_last_write_has_lost_nothing(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(
            "hyperrule.reporting.make.write_card", lambda *_: (_ for _ in ()).throw(RunError("the disk is full"))
        )
        with pytest.raises(RunError, match="disk is full"):
            hyperrule.finetune(dataset=uninterrupted["data"], out=out, quiet=True, **SMALL)
    monkeypatch.setattr("hyperrule.jobs.job.Loop.train", lambda *_: pytest.fail("trained again"))
    hyperrule.resume(out, quiet=True)
    assert same_weights(out, uninterrupted["out"])


class Killed(keras.layers.Layer):
    """A signal in the middle of a call of Keras, which makes another exception of what is raised there."""

    def call(self, inputs):
        os.kill(os.getpid(), signal.SIGTERM)
        return inputs


def test_interrupted_evaluation_is_done_again_on_resuming(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("hyperrule.jobs.finetune.compute_metrics", lambda *_: Killed()(np.zeros(1)))
        with pytest.raises(Interrupted, match=r"SIGTERM after training.*--resume"):
            hyperrule.finetune(dataset=str(uninterrupted["data"]), out=out, quiet=True, **SMALL)
    assert not RunFolder(out).finished
    hyperrule.resume(out, quiet=True)
    assert same_weights(out, uninterrupted["out"])


def test_two_devices_train_evaluate_and_resume_on_one_like_one_even_on_the_same_images_in_shards(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "run", {**SMALL, "micro_batch": 3}
    with monkeypatch.context() as patch:
        patch.setattr("hyperrule.training.runtime.start", lambda *_, **__: strategy_of(2))
        patch.setattr(
            "hyperrule.jobs.finetune.write_arrays", lambda *_: (_ for _ in ()).throw(RunError("stopped here"))
        )
        with pytest.raises(RunError, match="stopped here"):
            hyperrule.finetune(dataset=str(uninterrupted["data"]), out=out, quiet=True, **options)
    confusion = json.loads((uninterrupted["out"] / "eval.json").read_text())["confusion"]
    (out / "checkpoints" / "step-00000012.npz").unlink()
    files = sorted(uninterrupted["data"].glob("*/*.png"))
    images = [LabelledImage("train", file.parent.name, file.name, file.read_bytes()) for file in files]
    (tmp_path / "shards").mkdir()
    result = hyperrule.resume(out, quiet=True, **tar_shards.write(tmp_path / "shards", images))
    expected = [line["loss"] for line in RunFolder(uninterrupted["out"]).read_metrics()]
    assert [line["loss"] for line in result.run.read_metrics()] == pytest.approx(expected, rel=1e-4)
    assert [list(row) for row in result.metrics.confusion] == confusion


def test_step_that_does_not_fit_into_memory_begins_again_in_halves(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate, refused = TrainingStep.accumulate, []

    def small_device(step: TrainingStep, micro_batch: MicroBatch) -> None:
        """Takes three images; from the fourth step on, two. Each time the second micro-batch fails."""
        size = len(micro_batch.images)
        refused.append(size)
        if size > (3 if len(refused) < 12 else 2) and refused.count(size) % 2 == 0:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        accumulate(step, micro_batch)

    monkeypatch.setattr(TrainingStep, "accumulate", small_device)
    result = hyperrule.finetune(
        dataset=str(uninterrupted["data"]), out=tmp_path / "run", quiet=True, **{**SMALL, "micro_batch": 6}
    )
    losses, expected = (
        [line["loss"] for line in run.read_metrics()] for run in (result.run, RunFolder(uninterrupted["out"]))
    )
    assert losses == pytest.approx(expected, rel=1e-4)
    decided = result.run.read_plan().micro_batch
    assert (decided.value, decided.reason) == (2, "3 did not fit into memory")
    assert result.plan == result.run.read_plan()


def test_memory_that_does_not_do_for_one_image_is_said_in_one_line(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(TrainingStep, "accumulate", no_memory)
    with pytest.raises(RunError, match=r"TensorFlow failed: OOM.*--resume \S+ --remat"):
        hyperrule.finetune(dataset=str(uninterrupted["data"]), out=tmp_path / "run", quiet=True, **SMALL)


def test_signal_during_an_evaluation_on_the_way_stops_it_and_resuming_makes_up_for_it(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SMALL, "eval_every": 4}
    logits = Evaluator.logits

    def interrupted_once(evaluator: Evaluator, examples: object, report: Report) -> object:
        monkeypatch.setattr(Evaluator, "logits", logits)
        os.kill(os.getpid(), signal.SIGTERM)
        return logits(evaluator, examples, report)

    monkeypatch.setattr(Evaluator, "logits", interrupted_once)
    with pytest.raises(Interrupted, match="after 4 of 12 steps; checkpoint written"):
        hyperrule.finetune(dataset=str(uninterrupted["data"]), out=tmp_path / "run", quiet=True, **options)
    run = hyperrule.resume(tmp_path / "run", quiet=True).run
    assert [line["step"] for line in run.read_metrics() if line["kind"] == "evaluation"] == [4, 8, 12]
    assert same_weights(run.path, uninterrupted["out"])


def test_restartable_begins_goes_on_and_returns_the_result(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"dataset": str(uninterrupted["data"]), "out": tmp_path / "run", "restartable": True, "quiet": True}
    with monkeypatch.context() as patch:
        patch.setattr(
            "hyperrule.reporting.make.write_card", lambda *_: (_ for _ in ()).throw(RunError("the disk is full"))
        )
        with pytest.raises(RunError, match="disk is full"):
            hyperrule.finetune(**request, **SMALL)
    with pytest.raises(RunFolderError, match="batch: 8, not 4"):
        hyperrule.finetune(**request, **{**SMALL, "batch": 4})
    monkeypatch.setattr("hyperrule.jobs.job.Loop.train", lambda *_: pytest.fail("trained again"))
    result = hyperrule.finetune(**request, **SMALL)
    assert same_weights(result.run.path, uninterrupted["out"])
    again = hyperrule.finetune(**request, **SMALL)
    assert (again.metrics, again.parity, again.plan) == (result.metrics, result.parity, result.run.read_plan())


def test_runs_that_begin_together_do_not_collide(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its folder before its images are checked, and none that fails there leaves anything."""
    monkeypatch.chdir(tmp_path)
    there: list[list[str]] = []

    def check_images(job: Job) -> None:
        there.append(sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")))
        if len(there) < 2:
            hyperrule.finetune(dataset=str(uninterrupted["data"]), quiet=True, **SMALL)
        raise RunError("decoded no image")

    monkeypatch.setattr(Job, "check_images", check_images)
    with pytest.raises(RunError, match="decoded no image"):
        hyperrule.finetune(dataset=str(uninterrupted["data"]), quiet=True, **SMALL)
    name = f"runs/{uninterrupted['data'].name}"
    assert there == [[name], [name, f"{name}-2"]]
    assert list(tmp_path.iterdir()) == []


def test_resuming_another_plan_is_refused_with_the_difference(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = tmp_path / "run", uninterrupted["data"]
    monkeypatch.setattr("hyperrule.jobs.job.Loop.train", lambda *_: (_ for _ in ()).throw(RunError("stopped here")))
    with pytest.raises(RunError, match="stopped here"):
        hyperrule.finetune(dataset=str(data), out=out, quiet=True, **SMALL)
    with pytest.raises(RunFolderError, match=r"batch: 8, not 16"):
        hyperrule.resume(out, batch=16)
    image = data / "left" / "0.png"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    try:
        with pytest.raises(RunFolderError, match=r"dataset sha256: \w+, not \w+"):
            hyperrule.resume(out)
    finally:
        image.write_bytes(content)
    with pytest.raises(RunError, match="stopped here"):
        hyperrule.resume(out, batch=8, quiet=True)


def test_finished_run_is_not_resumed(uninterrupted: dict[str, Path]) -> None:
    with pytest.raises(RunFolderError, match="is finished"):
        hyperrule.resume(uninterrupted["out"])


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"not finite.*--base-lr"):
        hyperrule.finetune(
            dataset=str(uninterrupted["data"]), out=out, quiet=True, **{**SMALL, "steps": 50, "base_lr": 1e30}
        )
    assert not RunFolder(out).finished
    newest = max((out / "checkpoints").glob("*.npz"))
    with np.load(newest) as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


def test_budget_shrinks_every_boundary_once_and_is_frozen(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    options = {key: value for key, value in SMALL.items() if key not in ("steps", "checkpoint_every")}
    options["budget"] = "1h"

    def slow_device(job: Job) -> Calibration:
        """Measured, but for a step so long that eight of them fill the hour, on whatever machine this is."""
        measured = calibrate(job)
        assert 0 < measured.step < measured.elapsed
        return measured.model_copy(update={"step": (3600 - measured.elapsed - measured.evaluation) / 8.5})

    monkeypatch.setattr("hyperrule.jobs.job.calibrate", slow_device)
    result = hyperrule.finetune(dataset=str(uninterrupted["data"]), out=out, quiet=True, **options)
    plan = result.run.read_plan()
    full, shrunk = hyperrule.plan(dataset=str(uninterrupted["data"]), **options).schedule.value, plan.schedule.value
    assert plan == result.plan
    assert plan.calibration is not None
    assert shrunk == full.stretched(shrunk.steps)
    assert shrunk.steps == 8 < full.steps
    assert plan.schedule.deviates
    assert plan.head_init.value == "probe"
    assert steps_done(out) == shrunk.steps
    # Unfinished again, it goes on under the same steps: nothing is measured a second time.
    result.run.card_file.unlink()
    assert hyperrule.resume(out, quiet=True).plan == plan
