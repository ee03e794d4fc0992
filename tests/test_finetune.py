"""The main job, end to end, by its command line and its Python API."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from devices import strategy_of
from writers import LabelledImage, tar_shards

import hyperrule
from hyperrule.backbones.describe import describe_backbone
from hyperrule.errors import Interrupted, RunError, RunFolderError
from hyperrule.job import _Job
from hyperrule.planning.plan import Calibration
from hyperrule.recipe import shipped_recipes
from hyperrule.run_folder import RunFolder

KILLS = int(os.environ.get("HYPERRULE_TEST_KILLS", "3"))
# Small pixels and few steps: what is tested is the way through, not the accuracy.
SMALL = {"batch": 8, "steps": 12, "resize": 40, "crop": 32, "precision": "float32", "checkpoint_every": 1}


def flags(options: dict[str, object]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hyperrule", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def steps_done(folder: Path) -> int:
    return sum(line["kind"] == "step" for line in RunFolder(folder).read_metrics())


def test_digits_from_command_line_to_a_classifier_that_strangers_can_use(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {**SMALL, "dataset": "digits", "crop": 64, "resize": 80, "head_init": "probe", "eval_every": 6}
    code, stdout, stderr = run("finetune", *flags(options), "--out", str(out), "--json")
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert "I0000" not in stderr
    result = json.loads(stdout)
    folder = RunFolder(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "eval.json", "export", "metrics.jsonl", "plan.json", "predictions.parquet", "summary.md", "weights.npz",
    ]  # fmt: skip

    # The evaluation is exact, and its parts agree with each other.
    figures = json.loads(folder.eval_file.read_text())
    rows = pq.read_table(folder.predictions_file).to_pylist()
    plan = folder.read_plan()
    assert len(rows) == len({row["id"] for row in rows}) == plan.dataset.splits["test"].examples == figures["examples"]
    correct = sum(row["label"] == row["predicted"] for row in rows)
    assert figures["top1"] == result["top1"] == pytest.approx(correct / len(rows))
    assert figures["top1"] > 0.9
    assert sum(map(sum, figures["confusion"])) == len(rows)
    assert np.trace(figures["confusion"]) == correct
    assert [line["step"] for line in folder.read_metrics() if line["kind"] == "evaluation"] == [6, 12]

    # The weights are a BiT checkpoint; the plan is what `plan` says.
    assert describe_backbone(str(folder.weights_file)).architecture == "R26x0.5"
    planned = hyperrule.plan(**options)
    assert planned.differences(plan) == []

    # A process that knows TensorFlow only repeats the predictions, from bytes and from pixels.
    script = """
import sys, json, numpy as np, tensorflow as tf
assert "hyperrule" not in sys.modules
from sklearn.datasets import load_digits
model = tf.saved_model.load(sys.argv[1])
ids = json.loads(sys.argv[2])
images = np.rint(load_digits().images[ids] * 255 / 16).astype(np.uint8)
images = np.repeat(images[..., np.newaxis], 3, axis=-1)
encoded = [tf.io.encode_png(image) for image in images]
for name, inputs in (("serving_default", {"image_bytes": tf.stack(encoded)}), ("images", {"images": images})):
    answer = model.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    print(json.dumps({"label": [label.decode() for label in answer["label"].numpy()],
                      "score": answer["score"].numpy().tolist(),
                      "names": [name.decode() for name in answer["class_names"].numpy()[0]]}))
print(tf.io.read_file(model.labels.asset_path).numpy().decode())
"""
    ids = [int(row["id"].removeprefix("digits/")) for row in rows[:20]]
    command = [sys.executable, "-I", "-c", script, str(folder.saved_model), json.dumps(ids)]
    from_bytes, from_pixels, *labels = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for answer in map(json.loads, (from_bytes, from_pixels)):
        assert answer["label"] == [row["predicted"] for row in rows[:20]]
        assert answer["score"] == pytest.approx([row["score"] for row in rows[:20]], abs=1e-4)
        assert answer["names"] == list(plan.dataset.class_names)
    assert labels[:10] == list(plan.dataset.class_names)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
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
        patch.setattr("hyperrule.job.summary", lambda *_: (_ for _ in ()).throw(RunError("the disk is full")))
        with pytest.raises(RunError, match="disk is full"):
            hyperrule.finetune(dataset=uninterrupted["data"], out=out, quiet=True, **SMALL)
    monkeypatch.setattr("hyperrule.job.train", lambda *_: pytest.fail("trained again"))
    hyperrule.resume(out, quiet=True)
    assert same_weights(out, uninterrupted["out"])


def test_corrupt_validation_image_is_found_before_step_0(image_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "split"
    for split in ("train", "val", "test"):
        shutil.copytree(image_folder, data / split)
    image = data / "val" / "warm" / "03.jpg"
    image.write_bytes(image.read_bytes()[:-300])
    with pytest.raises(hyperrule.UserError, match=r"val/warm/03\.jpg"):
        hyperrule.finetune(dataset=data, out=tmp_path / "run", eval_every=1, quiet=True, **SMALL)
    assert not (tmp_path / "run").exists()


def test_interrupted_evaluation_is_done_again_on_resuming(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("hyperrule.job.compute_metrics", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=r"SIGTERM after training.*--resume"):
            hyperrule.finetune(dataset=str(uninterrupted["data"]), out=out, quiet=True, **SMALL)
    assert not RunFolder(out).finished
    hyperrule.resume(out, quiet=True)
    assert same_weights(out, uninterrupted["out"])


def test_two_devices_train_evaluate_and_resume_like_one_even_on_the_same_images_in_shards(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperrule.training.runtime.start", lambda machine, deterministic=True: strategy_of(2))
    out = tmp_path / "run"
    options = {**SMALL, "dataset": str(uninterrupted["data"]), "micro_batch": 3}
    with monkeypatch.context() as patch:
        patch.setattr("hyperrule.job.compute_metrics", lambda *_: (_ for _ in ()).throw(RunError("stopped here")))
        with pytest.raises(RunError, match="stopped here"):
            hyperrule.finetune(out=out, quiet=True, **options)
    (out / "checkpoints" / "step-00000012.npz").unlink()
    files = sorted(uninterrupted["data"].glob("*/*.png"))
    images = [LabelledImage("train", file.parent.name, file.name, file.read_bytes()) for file in files]
    (tmp_path / "shards").mkdir()
    result = hyperrule.resume(out, quiet=True, **tar_shards.write(tmp_path / "shards", images))
    expected = [line["loss"] for line in RunFolder(uninterrupted["out"]).read_metrics()]
    assert [line["loss"] for line in result.run.read_metrics()] == pytest.approx(expected, rel=1e-4)


def test_resuming_another_plan_is_refused_with_the_difference(
    uninterrupted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = tmp_path / "run", uninterrupted["data"]
    monkeypatch.setattr("hyperrule.job.train", lambda *_: (_ for _ in ()).throw(RunError("stopped here")))
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
    measure = _Job.calibrate

    def slow_device(job: _Job) -> Calibration:
        """Measured, but for a step so long that eight of them fill the hour, on whatever machine this is."""
        measured = measure(job)
        assert 0 < measured.step < measured.elapsed
        return measured.model_copy(update={"step": (3600 - measured.elapsed - measured.evaluation) / 8.5})

    monkeypatch.setattr(_Job, "calibrate", slow_device)
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
    result.run.summary_file.unlink()
    assert hyperrule.resume(out, quiet=True).plan == plan


def test_skipped_images_are_counted_in_plan_and_result(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "cold" / "99.jpg").write_text("not an image")
    result = hyperrule.finetune(
        dataset=str(image_folder), out=tmp_path / "run", skip_corrupt=True, head_init="probe", quiet=True, **SMALL
    )
    assert list(result.plan.dataset.skipped) == ["cold/99.jpg"]
    assert "cold/99.jpg" in result.run.summary_file.read_text()
    assert result.metrics.examples == 4
    assert result.metrics.top1 == 1.0  # colour tells the classes apart


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "--dataset", "digits"], ["finetune", "--help"], ["recipes"], ["backbones"]]
)
def test_the_pure_side_does_not_import_tensorflow(arguments: list[str]) -> None:
    script = (
        "import sys; from hyperrule.cli import main\n"
        f"try: main({arguments!r}, prog_name='hyperrule')\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) >= 3


def test_shipped_recipes_are_valid_and_open_with_command_and_result() -> None:
    recipes = shipped_recipes()
    assert recipes
    for path in recipes:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert f"hyperrule finetune --recipe {path.stem}" in header[0]
        assert any("accuracy" in line for line in header[1:])
        options = {"dataset": "digits", **yaml.safe_load(path.read_text())}
        assert hyperrule.plan(**{**options, "dataset": "digits"}).classes == 10


def test_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    example = readme.split("```python")[1].split("```")[0]
    assert "hyperrule.finetune(" in example
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert RunFolder(next((tmp_path / "runs").iterdir())).finished


def test_class_names_of_strangers_come_out_as_they_are(image_folder: Path, tmp_path: Path) -> None:
    names = ['it\'s "a", b', "a/b\\c", "<b>&amp;</b>", "日本 🐈‍⬛", "| *x* `y` |"]
    rows = [
        [f"images/{folder}/{index:02d}.jpg", name]
        for number, name in enumerate(names)
        for folder, index in (("cold", number), ("warm", number), ("cold", number + 5), ("warm", number + 5))
    ]
    with (tmp_path / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["path", "label"], *rows])
    options = {"steps": 1, "batch": 4, "crop": 32, "resize": 32, "precision": "float32"}
    result = hyperrule.finetune(dataset=tmp_path / "images.csv", out=tmp_path / "run", quiet=True, **options)
    folder = result.run
    assert (folder.saved_model / "assets/labels.txt").read_text(encoding="utf-8").splitlines() == sorted(names)
    classify = tf.saved_model.load(str(folder.saved_model)).signatures["serving_default"]
    answer = classify(image_bytes=tf.constant([(image_folder / "cold/00.jpg").read_bytes()]))
    assert [name.decode() for name in answer["class_names"].numpy()[0]] == sorted(names)
    assert [row["name"] for row in json.loads(folder.eval_file.read_text())["per_class"]] == sorted(names)
    summary = folder.summary_file.read_text(encoding="utf-8")
    assert r"\<b\>\&amp;\</b\>" in summary
    assert r"\| \*x\* \`y\` \|" in summary
