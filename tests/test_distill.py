"""Distillation: the losses, the optimizer, the trajectory however it is split, and the job from end to end."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from command_line import flags, run, start
from conftest import golden_array
from devices import strategy_of
from modules import Module
from PIL import Image
from scipy.special import rel_entr, softmax

import hyperrule
from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import HEAD, read_arrays, write_arrays
from hyperrule.backbones.bit.resnet_v2 import ResNetV2
from hyperrule.backbones.class_names import ClassName
from hyperrule.data.pipeline import MicroBatch
from hyperrule.evaluation.agreement import Agreement, labels_among
from hyperrule.exporting.parity import read_parities
from hyperrule.jobs.distill.describe import describe_student, describe_teacher
from hyperrule.jobs.distill.student import Student, Teacher, kl_divergence
from hyperrule.planning.distill import DistillPlan
from hyperrule.recipe import DistillRecipe, make_recipe
from hyperrule.run_folder import RunFolder, latest_checkpoint, save_checkpoint
from hyperrule.support.progress import Reporter
from hyperrule.training.optimizer import adamw
from hyperrule.training.step import TrainingStep

CLASSES = 7
BIT = Architecture(14, 0.5)
SMALL: dict[str, Any] = {"student": "r14x0.5", "batch": 8, "crop": 32, "precision": "float32", "steps": 6}
MATCH_BOTH: dict[str, Any] = {"features_weight": 2.0, "feature_norm": 5.0}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images of coloured noise in one folder."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for number in range(120):
        pixels = rng.integers(0, 256, (1, 1, 3)) // 2 + rng.integers(0, 128, (40, 48, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R14x0.5 with the golden figures' weights and a head of seven classes."""
    arrays = {name: golden_array(name, shape) for name, shape in BIT.array_shapes.items()}
    arrays[f"{HEAD}kernel"] = golden_array("kernel", (1, 1, BIT.features, CLASSES)) * 0.1
    arrays[f"{HEAD}bias"] = np.zeros(CLASSES, np.float32)
    file = tmp_path_factory.mktemp("teacher") / "teacher.npz"
    write_arrays(file, arrays)
    return file


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of features, without a head, that takes pixels in [0, 1]."""
    kernel = tf.Variable(golden_array("kernel", (4, 4, 3, 16)))
    convolved = Module(
        lambda images, _: tf.reduce_mean(tf.nn.conv2d(images, kernel, 4, "VALID"), axis=[1, 2]), [kernel]
    )
    folder = tmp_path_factory.mktemp("foreign") / "module"
    tf.saved_model.save(convolved, str(folder))
    return folder


def golden_arrays_features(images: np.ndarray) -> np.ndarray:
    """What a network with the teacher's weights, in training form, makes of images in [0, 1]."""
    network = ResNetV2(BIT, initializer="zeros")
    for name, variable in network.arrays.items():
        variable.assign(golden_array(name, variable.shape))
    return network(2 * images - 1).numpy()


@pytest.fixture(scope="module")
def finished(pool: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that matched logits and features, and that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    hyperrule.distill(teacher=teacher, dataset=pool, out=out, quiet=True, **SMALL, **MATCH_BOTH)
    return out


def plan_of(teacher: Path, pool: Path, **options: Any) -> DistillPlan:
    return hyperrule.plan_distillation(teacher=teacher, dataset=str(pool), **{**SMALL, **options})


def student_of(plan: DistillPlan, devices: int) -> TrainingStep:
    """The student with the golden figures' weights, its map and its teacher's scale set to something."""
    strategy = strategy_of(devices)
    with strategy.scope():
        student = Student(ResNetV2(BIT), Teacher(plan.teacher, "float32"), plan)
        arrays = {name: golden_array(name, shape) for name, shape in BIT.array_shapes.items()}
        student.load(arrays, with_head=False)
        student.mean.assign(tf.fill(student.mean.shape, 0.5))
        student.scale.assign(tf.fill(student.scale.shape, 2.0))
        optimizer = adamw(plan.weight_decay.value / plan.base_lr.value, student.undecayed)
        return TrainingStep(student, strategy, 8, optimizer)


def batch_of(side: int = 32) -> MicroBatch:
    images = np.random.default_rng(1).uniform(0, 1, (8, side, side, 3)).astype(np.float32)
    return MicroBatch(images, np.zeros((8, 1), np.float32), np.ones(8, np.float32))


def test_divergence_is_scipys() -> None:
    teacher, student = np.random.default_rng(0).normal(size=(2, 4, CLASSES)).astype(np.float32)
    for temperature in (1.0, 5.0):
        expected = rel_entr(*(softmax(logits / temperature, axis=1) for logits in (teacher, student))).sum(axis=1)
        found = kl_divergence(tf.constant(teacher), tf.constant(student), temperature)
        np.testing.assert_allclose(found, temperature**2 * expected, rtol=1e-4)
    np.testing.assert_allclose(kl_divergence(tf.constant(teacher), tf.constant(teacher), 2.0), 0, atol=1e-6)


def test_loss_is_the_weighted_sum_of_its_parts(teacher: Path, pool: Path) -> None:
    step = student_of(plan_of(teacher, pool, features_weight=2.0, logits_weight=3.0, temperature=4.0), 1)
    student, micro = step.classifier, batch_of()
    student.map.kernel.assign(golden_array("map", student.map.kernel.shape) * 0.01)
    lesson = student.teacher(micro.images)
    logits, features = student(micro.images), student.features(micro.images)
    divergence = kl_divergence(lesson.logits, logits, 4.0)
    mapped = features @ student.map.kernel.value + student.map.bias.value
    error = np.mean(np.square(mapped - (lesson.features - 0.5) / 2.0), axis=1)
    np.testing.assert_allclose(student.losses_of(micro, training=True), 3 * divergence + 2 * error, rtol=1e-4)


def test_checkpoint_counts_updates_exactly(teacher: Path, pool: Path, tmp_path: Path) -> None:
    step = student_of(plan_of(teacher, pool, features_weight=1.0), 1)
    step.optimizer.iterations.assign(2**24 + 1)  # which float32 does not have
    save_checkpoint(tmp_path / "checkpoints", 1, step.snapshot(), "again")
    step.optimizer.iterations.assign(0)
    found = latest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    step.restore(found[1])
    assert int(step.optimizer.iterations.numpy()) == 2**24 + 1


def test_teacher_learns_nothing_and_infers_alone(teacher: Path, pool: Path) -> None:
    step = student_of(plan_of(teacher, pool, features_weight=1.0), 1)
    taught = {id(variable) for variable in step.classifier.teacher._network.variables}
    assert taught.isdisjoint(map(id, step.classifier.variables))
    before = step.classifier.teacher(batch_of().images)
    step.run([batch_of()], 0.01)
    for one, other in zip(before, step.classifier.teacher(batch_of().images), strict=True):
        np.testing.assert_array_equal(one, other)
    expected = golden_arrays_features(batch_of().images)
    np.testing.assert_allclose(before.features, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["a BiT", "a module"])
def test_trajectory_does_not_depend_on_devices_and_micro_batches(
    kind: str, teacher: Path, foreign: Path, pool: Path
) -> None:
    asked: dict[str, Any] = {"features_weight": 2.0, "teacher_crop": 64, "weight_decay": 0.1}
    plan = (
        plan_of(teacher, pool, **asked)
        if kind == "a BiT"
        else plan_of(foreign, pool, teacher_range="0,1", logits_weight=0.0, **asked)
    )

    def losses(devices: int, micro_batch: int) -> list[float]:
        step = student_of(plan, devices)
        dataset = tf.data.Dataset.from_tensor_slices(batch_of(64)).batch(micro_batch)
        return [
            step.run(step.strategy.distribute_datasets_from_function(lambda _: dataset), 0.003).loss for _ in range(4)
        ]

    assert losses(devices=2, micro_batch=2) == pytest.approx(losses(devices=1, micro_batch=8), rel=1e-4)


def test_update_is_adam_with_decoupled_decay_of_kernels_alone(teacher: Path, pool: Path) -> None:
    """One step against the formulas of arXiv 1711.05101, algorithm 2, after clipping."""
    plan = plan_of(teacher, pool, features_weight=1.0, weight_decay=0.05, base_lr=0.01)
    step = student_of(plan, 1)
    student = step.classifier
    before = {name: variable.numpy() for name, variable in student.arrays.items()}
    micro = batch_of()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(student.losses_of(micro, training=True))
    trained = {name: variable for name, variable in student.arrays.items() if variable.trainable}
    gradients = dict(zip(trained, tape.gradient(loss, [v.value for v in trained.values()]), strict=True))
    clip = min(1.0, 1.0 / float(tf.linalg.global_norm(list(gradients.values()))))
    assert clip < 1
    step.run([micro], 0.004)
    for name in (f"{HEAD}kernel", f"{HEAD}bias", "distill/map/kernel", "resnet/group_norm/gamma"):
        gradient = clip * gradients[name].numpy()
        decay = 0.05 * 0.004 / 0.01 if name.endswith("kernel") else 0.0
        expected = before[name] * (1 - decay) - 0.004 * gradient / (np.abs(gradient) + 1e-7 / np.sqrt(1 - 0.999))
        np.testing.assert_allclose(student.arrays[name].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_run_folder_holds_a_bit_that_says_what_the_student_says(finished: Path, teacher: Path, pool: Path) -> None:
    folder = RunFolder(finished)
    plan = folder.read_plan()
    assert isinstance(plan, DistillPlan)
    assert (plan.steps, plan.teacher.classes, plan.pool.examples) == (
        6,
        CLASSES,
        len(os.listdir(pool)) - held_out(plan),
    )
    arrays = read_arrays(folder.weights_file)
    assert set(arrays) == {*BIT.array_shapes, f"{HEAD}kernel", f"{HEAD}bias"}
    overall = Agreement.model_validate(json.loads(folder.eval_file.read_text())["overall"])
    assert overall.examples == held_out(plan)
    assert 0 <= overall.top1_agreement <= 1
    assert overall.kl > 0
    assert overall.features_r2 < 1
    assert overall.feature_norm == pytest.approx(5.0, rel=1e-4)  # as asked, of what is in weights.npz
    assert (overall.labelled, overall.student_top1) == (0, None)
    assert not folder.checkpoints.exists()
    # Right is what the teacher says; all of the few images that were held out are compared.
    assert read_parities(folder.parity_file)["saved_model"].accuracy_before == pytest.approx(overall.top1_agreement)
    assert "| all |" in folder.card_file.read_text()
    assert "agrees with its teacher" in folder.report_file.read_text()
    # Whoever takes the run as a classifier gets the teacher's classes.
    prediction = hyperrule.predict(finished, pool / "000.png", top=CLASSES, quiet=True)[0]
    assert {likely.class_name for likely in prediction.classes} == {str(index) for index in range(CLASSES)}
    # The scale that was asked for, on what the run measures; the head made up for it, or the export would differ.
    backbone = ResNetV2(BIT, initializer="zeros")
    for name, variable in backbone.arrays.items():
        variable.assign(arrays[name])
    names = [path for path in pool.iterdir() if path.name in held_out_names(folder)]
    images = np.stack([np.asarray(Image.open(path).resize((32, 32), Image.Resampling.BILINEAR)) for path in names])
    norms = np.linalg.norm(backbone(images / np.float32(127.5) - 1), axis=1)
    assert norms.mean() == pytest.approx(5.0, rel=0.1)  # Pillow resizes otherwise


def held_out(plan: DistillPlan) -> int:
    return sum(part.held_out for part in plan.pool.parts)


def held_out_names(folder: RunFolder) -> list[str]:
    import pyarrow.parquet as pq

    return pq.read_table(folder.predictions_file)["id"].to_pylist()


def test_stopped_and_resumed_ends_in_the_same_bits(finished: Path, pool: Path, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = flags({"teacher": teacher, "dataset": pool, "out": out, "checkpoint_every": 1, **SMALL, **MATCH_BOTH})
    process = start("distill", *asked, export=False)
    folder = RunFolder(out)
    while process.poll() is None and len(folder.read_metrics()) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not folder.finished
    code, stdout, stderr = run("distill", "--resume", str(out), "--json", export=False)
    assert code == 0, stderr
    assert json.loads(stdout)["steps"] == 6
    weights, whole = (read_arrays(RunFolder(path).weights_file) for path in (out, finished))
    assert all(np.array_equal(weights[name], whole[name]) for name in whole)


def test_features_are_matched_where_there_is_no_head(pool: Path, foreign: Path, tmp_path: Path) -> None:
    result = hyperrule.distill(
        teacher=foreign, teacher_range="0,1", dataset=pool, out=tmp_path / "run", quiet=True, **SMALL
    )
    assert result.parity is None
    assert not result.run.export.exists()
    assert set(read_arrays(result.run.weights_file)) == set(BIT.array_shapes)
    assert result.agreements.overall.top1_agreement is None
    losses = [line["loss"] for line in result.run.read_metrics()]
    assert 0.1 < losses[0] < 2  # of the variance, of which a zero map explains nothing; blends have less
    # It is a backbone, but no classifier.
    planned = hyperrule.plan(dataset="digits", backbone=str(result.run.path))
    assert planned.backbone.architecture == "R14x0.5"
    code, _, stderr = run("predict", str(result.run.path), str(pool / "000.png"))
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert "features only" in stderr


def test_labels_count_where_all_class_names_are_the_teachers() -> None:
    classes = (ClassName("n01440764", "tench"), ClassName("n02979186", "cassette player"))
    names = ["tench", "n02979186", "tench", "dog", "", "0", "1"]
    data_sets = np.array([0, 0, 1, 1, 2, 3, 3], np.int32)
    assert labels_among(names, data_sets, classes).tolist() == [0, 1, -1, -1, -1, -1, -1]
    digits = tuple(ClassName("", str(digit)) for digit in range(10))
    assert labels_among(["7", "1"], np.zeros(2, np.int32), digits).tolist() == [7, 1]


def test_students_and_teachers_by_name() -> None:
    quiet = Reporter(quiet=True)
    assert describe_student("R50x1", quiet).architecture == "R50x1"
    assert describe_student("bit-r26x0.5", quiet).sha256 is not None
    features = make_recipe({"teacher": "bit-r26x0.5", "dataset": "photos"}, DistillRecipe)
    assert (describe_teacher(features, quiet).classes, describe_teacher(features, quiet).features) == (0, 1024)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shares": "3,1"}, "shares must have one number per data set, 1. Received: 2"),
        ({"student": "r27x1"}, "depth must be one of [14, 26, 50, 101, 152]. Received: 27"),
        ({"warmup": 9}, "warmup must be shorter than the 6 steps. Received: 9"),
        ({"teacher": "bit-r26x0.5", "logits_weight": 1}, "has no softmax head, so it gives no logits"),
        ({"logits_weight": 0, "features_weight": 0}, "must not both be 0"),
        ({"epochs": 3}, "give one of steps, epochs and budget"),
        ({"temprature": 3}, "unknown option 'temprature'. Did you mean 'temperature'? 'hyperrule distill --help'"),
        ({"dataset": "nowhere"}, "does not exist"),
        ({"least_area": 0}, "least_area"),
        ({"teacher": "bit-r26x0.5", "features_weight": 0}, "gives features only: --features-weight must not be 0"),
        ({"data_dir": "nowhere"}, "--data-dir does not apply to"),
        ({"dataset": ("digits", "digits")}, "name each data set once"),
    ],
)
def test_mistakes_are_told_in_one_line(options: dict[str, Any], said: str, teacher: Path, pool: Path) -> None:
    with pytest.raises(hyperrule.UserError) as raised:
        hyperrule.plan_distillation(**{"teacher": teacher, "dataset": str(pool), **SMALL, **options})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_foreign_networks_are_no_students(tmp_path: Path, teacher: Path, pool: Path) -> None:
    kernel = tf.Variable(tf.ones((4, 4, 3, 16)))
    module = Module(lambda images, _: tf.reduce_mean(tf.nn.conv2d(images, kernel, 4, "VALID"), axis=[1, 2]), [kernel])
    tf.saved_model.save(module, str(tmp_path / "module"))
    with pytest.raises(hyperrule.UserError, match="input range"):
        plan_of(teacher, pool, student=str(tmp_path / "module"))
    with pytest.raises(hyperrule.UserError, match="gives logits only"):
        plan_of(tmp_path / "module", pool, teacher_range="0,1", logits_weight=1, features_weight=1)


def test_resuming_refuses_another_pool_and_another_job(finished: Path, tmp_path: Path, pool: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "plan.json").write_text((finished / "plan.json").read_text())
    with pytest.raises(hyperrule.UserError, match=r"temperature: 1\.0, not 2\.0"):
        hyperrule.resume(unfinished, temperature=2, quiet=True)
    other = tmp_path / "other"
    shutil.copytree(pool, other)
    shutil.copy(other / "000.png", other / "again.png")
    with pytest.raises(hyperrule.UserError, match="pool sha256"):
        hyperrule.resume(unfinished, dataset=str(other), quiet=True)
    code, _, stderr = run("distill", "--resume", str(finished))
    assert code == 2
    assert "is finished" in stderr
    with pytest.raises(hyperrule.UserError, match="holds a distillation"):
        hyperrule.finetune(dataset="digits", out=finished, restartable=True, quiet=True)
