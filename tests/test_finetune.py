"""The main job, end to end, through the command line and the Python API."""

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from click.testing import CliRunner
from command_line import SMALL, flags, run_afresh
from pages import page_of

import hyperrule
from hyperrule.backbones.describe import describe_backbone
from hyperrule.benchmark.grid import read_grid
from hyperrule.cli import main
from hyperrule.recipe import DistillRecipe, make_recipe, shipped_recipes
from hyperrule.run_folder import RunFolder
from hyperrule.support.wording import printable


def test_digits_from_command_line_to_a_classifier_that_strangers_can_use(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {
        **SMALL,
        "backbone": "bit-r26x0.5",
        "dataset": "digits",
        "crop": 64,
        "resize": 80,
        "head_init": "probe",
        "eval_every": 6,
    }
    code, stdout, stderr = run_afresh("finetune", *flags(options), "--out", str(out), "--json")
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert "I0000" not in stderr
    result = json.loads(stdout)
    folder = RunFolder(out)
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "eval.json", "export", "metrics.jsonl", "model_card.md", "pictures.parquet", "plan.json",
        "predictions.parquet", "report.html", "weights.npz",
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


def test_corrupt_validation_image_is_found_before_step_0(image_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "split"
    for split in ("train", "val", "test"):
        shutil.copytree(image_folder, data / split)
    image = data / "val" / "warm" / "03.jpg"
    image.write_bytes(image.read_bytes()[:-300])
    with pytest.raises(hyperrule.UserError, match=r"val/warm/03\.jpg"):
        hyperrule.finetune(dataset=data, out=tmp_path / "run", eval_every=1, quiet=True, **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_export")
def test_skipped_images_are_counted_in_plan_and_result(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "cold" / "99.jpg").write_text("not an image")
    result = hyperrule.finetune(
        dataset=str(image_folder), out=tmp_path / "run", skip_corrupt=True, head_init="probe", quiet=True, **SMALL
    )
    assert list(result.plan.dataset.skipped) == ["cold/99.jpg"]
    assert "cold/99.jpg" in result.run.card_file.read_text()
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
    for name, path in shipped_recipes().items():
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        options = yaml.safe_load(path.read_text())
        if name.startswith("distill/"):
            assert f"hyperrule distill --recipe {name}" in header[0]
            assert any("published" in line for line in header) or "teacher" in options
            assert make_recipe({"teacher": "efficientnet-lite0", **options}, DistillRecipe).dataset
            continue
        if name.startswith("bench/"):
            assert f"hyperrule bench {name}" in header[0]
            assert read_grid(name).cells()
            continue
        assert f"hyperrule finetune --recipe {name}" in header[0]
        assert any("accuracy" in line for line in header[1:])
        assert len(hyperrule.plan(**{**options, "dataset": "digits"}).class_names) == 10


def test_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    example = readme.split("```python")[1].split("```")[0]
    assert "hyperrule.finetune(" in example
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert RunFolder(next((tmp_path / "runs").iterdir())).finished


def test_class_names_of_strangers_come_out_as_they_are(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ['it\'s "a", b', "a/b\\c", "<b>&amp;</b>", "日本 🐈‍⬛", "| *x* `y` |"]
    rows = [
        [f"images/{folder}/{index:02d}.jpg", name]
        for number, name in enumerate(names)
        for folder, index in (("cold", number), ("warm", number), ("cold", number + 5), ("warm", number + 5))
    ]
    with (tmp_path / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["path", "label"], *rows])
    options = {**SMALL, "steps": 1, "batch": 4, "resize": 32}
    result = hyperrule.finetune(dataset=tmp_path / "images.csv", out=tmp_path / "it's a run", quiet=True, **options)
    folder = result.run
    assert (folder.saved_model / "assets/labels.txt").read_text(encoding="utf-8").splitlines() == sorted(names)
    classify = tf.saved_model.load(str(folder.saved_model)).signatures["serving_default"]
    answer = classify(image_bytes=tf.constant([(image_folder / "cold/00.jpg").read_bytes()]))
    assert [name.decode() for name in answer["class_names"].numpy()[0]] == sorted(names)
    assert [row["name"] for row in json.loads(folder.eval_file.read_text())["per_class"]] == sorted(names)
    card = folder.card_file.read_text(encoding="utf-8")
    assert r"\<b\>\&amp;\</b\>" in card
    assert r"\| \*x\* \`y\` \|" in card
    assert_snippets_run(folder, answer["label"][0].numpy().decode(), image_folder / "cold/00.jpg", monkeypatch)


def assert_snippets_run(folder: RunFolder, label: str, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand on the page, beside an image.jpg."""
    monkeypatch.chdir(folder.path.parent)
    shutil.copy(image, "image.jpg")
    shutil.copytree(image.parents[1], "my_images", dirs_exist_ok=True)
    snippets, said = page_of(folder).texts, []
    exec(snippets["use-tensorflow"], {"print": lambda *words: said.extend(words)})
    assert said[0] == label
    predicted = CliRunner().invoke(main, shlex.split(snippets["use-predict"])[1:])
    assert predicted.exit_code == 0, predicted.stderr
    assert f"{said[1]:.2%}  {printable(label)}" in predicted.stdout
    program, command, *flags = shlex.split(snippets["use-finetune"])
    assert (program, command) == ("hyperrule", "finetune")
    planned = CliRunner().invoke(main, ["plan", *flags, "--json"])
    assert planned.exit_code == 0, planned.stderr
    assert json.loads(planned.stdout)["backbone"]["origin"] == str(folder.path.resolve())
