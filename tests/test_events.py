"""TensorBoard's event files: the figures of metrics.jsonl, each exactly once, also after a resume."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from command_line import SMALL
from modules import SmallNet

import hyperrule
from hyperrule.run_folder import RunFolder
from hyperrule.training.loop import Events, Loop

pytestmark = pytest.mark.usefixtures("without_export")


def shown(run: RunFolder) -> dict[tuple[str, int], Any]:
    """What TensorBoard finds: values by tag and step, all of them scalars."""
    found: dict[tuple[str, int], Any] = {}
    for record in tf.data.TFRecordDataset(sorted(map(str, run.tensorboard.iterdir()))):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            assert value.metadata.data_class == 1  # or it is shown as text, at best
            assert (value.tag, event.step) not in found
            found[value.tag, event.step] = tf.make_ndarray(value.tensor).item()
    return found


def told(run: RunFolder) -> dict[tuple[str, int], Any]:
    """The same of metrics.jsonl."""
    return {
        (f"{line['kind']}/{name}", line["step"]): pytest.approx(value)
        for line in run.read_metrics()
        for name, value in line.items()
        if name not in ("kind", "step") and value is not None
    }


def test_a_resumed_run_shows_every_step_once(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SmallNet().save(tmp_path / "small")
    options = {**SMALL, "backbone": tmp_path / "small", "steps": 6, "checkpoint_every": 2, "eval_every": 3}
    run, check = RunFolder(tmp_path / "run"), Loop._check_finite
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_check_finite", lambda loop, result, done: check(loop, result, done) or 1 / (6 - done))
        with pytest.raises(ZeroDivisionError):
            hyperrule.finetune(dataset=image_folder, out=run.path, tensorboard=True, quiet=True, **options)
    assert shown(run) == told(run)
    assert max(step for _, step in shown(run)) == 5  # of which 4 are in the checkpoint

    hyperrule.resume(run.path, quiet=True)
    figures = shown(run)
    assert figures == told(run)
    assert {tag for tag, _ in figures} == {
        *(f"step/{name}" for name in ("loss", "gradient_norm", "learning_rate", "images_per_second")),
        *(f"evaluation/{name}" for name in ("top1", "top5", "loss")),
    }
    assert [step for tag, step in figures if tag == "step/loss"] == [1, 2, 3, 4, 5, 6]
    assert [step for tag, step in figures if tag == "evaluation/top1"] == [3, 6]


def test_events_are_no_part_of_what_a_run_is(image_folder: Path) -> None:
    """They may be asked for, or no more, when it is resumed."""
    asked = hyperrule.plan(dataset=image_folder, tensorboard=True)
    assert asked.recipe.tensorboard
    assert asked.differences(hyperrule.plan(dataset=image_folder)) == []


def test_what_was_not_finite_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append_metrics({"kind": "step", "step": 1, "loss": None, "gradient_norm": None, "overflow": True})
    Events(run).add({"kind": "step", "step": 2, "loss": 0.5, "loss_scale": 32768.0, "overflow": False})
    assert shown(run) == {
        ("step/overflow", 1): 1.0,
        ("step/loss", 2): 0.5,
        ("step/loss_scale", 2): 32768.0,
        ("step/overflow", 2): 0.0,
    }
