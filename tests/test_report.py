"""`report.html` and `model_card.md`: what they say about any run, and what `hyperrule report` refuses."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from fake_run import PARITY, make_data, make_run
from pages import Page, page_of
from PIL import Image

import hyperrule
from hyperrule.cli import main
from hyperrule.cli.options import collect
from hyperrule.cli.training import finetune_command
from hyperrule.errors import Interrupted, RunError
from hyperrule.evaluation.agreement import Agreement, Agreements
from hyperrule.evaluation.calibration import coverages
from hyperrule.evaluation.intervals import balanced, wilson
from hyperrule.evaluation.metrics import compute_metrics
from hyperrule.recipe import Recipe, make_recipe
from hyperrule.reporting.commands import command_of
from hyperrule.reporting.curves import MOST_POINTS, curves, smoothed, thinned
from hyperrule.reporting.figures import confusion_figure, most_confused, thresholds
from hyperrule.reporting.make import finish_run, read_run, write_report
from hyperrule.reporting.model_card import model_card
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Reporter

STRANGE = [
    "<script>alert(1)</script>", "x' onerror='alert(1)' \"", "--> <!-- ]]>", "{{ 7 * 7 }}", "$x^2$ \\frac", "null",
    "---", "- yes: no", "| *x* `y`", "\u202eturned round", "日本語 🐈", "a" * 80, "font-family: x", "#010203",
]  # fmt: skip


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("report") / "data", STRANGE)


@pytest.fixture(scope="module")
def finished(data: Path) -> RunFolder:
    run = make_run(data.parent.parent / "a <b> run", data)
    assert report(run.path).exit_code == 0
    return run


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """One to be changed."""
    return RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))


@pytest.fixture(scope="module")
def other(data: Path) -> RunFolder:
    return make_run(data.parent.parent / "other", data, seed=1, skill=4.0)


# The page


def test_the_page_is_one_file_without_scripts_and_names_are_text(finished: RunFolder) -> None:
    html = finished.report_file.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "link", "b", "iframe"} & set(page.tags)
    assert "onerror" not in dict(page.attributes)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("src"))
    assert all(re.match("#|data:image/png;base64,", target) for target in page.values("href", "xlink:href"))
    assert not re.search(r"@import|url\((?!#)", html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.values("href", "xlink:href") if target.startswith("#")} <= set(ids)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "\u202e" not in html
    assert "{{ 7 * 7 }}" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_the_page_says_what_eval_and_plan_say(finished: RunFolder) -> None:
    page = page_of(finished)
    text = " ".join(" ".join(page.texts.values()).replace("\N{NO-BREAK SPACE}", " ").split())
    figures, plan = json.loads(finished.eval_file.read_text()), finished.read_plan()
    n, p = figures["examples"], figures["top1"]
    centre, half = p + 1.96**2 / 2 / n, 1.96 * np.sqrt(p * (1 - p) / n + 1.96**2 / 4 / n**2)
    low, high = ((centre + sign * half) / (1 + 1.96**2 / n) for sign in (-1, 1))
    assert f"{p:.1%}".replace("%", " %") in text
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" in text
    assert f"{round(n * p)} of {n} images" in text
    assert plan.dataset.sha256 in text
    assert plan.backbone.sha256 in text
    assert f"{len(plan.deviations)} of {len(plan.decisions)} decisions deviate from the BiT-HyperRule" in text
    assert plan.crop.reason in text
    assert f"logits / {figures['calibration']['temperature']:.3f}" in text
    assert all(name in text for name in STRANGE if name.isprintable())


def test_the_page_is_the_same_every_time_and_without_the_data(run: RunFolder, finished: RunFolder, data: Path) -> None:
    run.plan_file.write_text(run.plan_file.read_text().replace(str(data.parent), "/gone"))
    write_report(run)
    html, before = run.report_file.read_text(), page_of(finished)
    assert page_of(run).values("src") == before.values("src") != []
    assert [ElementTree.tostring(svg) for svg in page_of(run).svgs] == [
        ElementTree.tostring(svg) for svg in before.svgs
    ]
    write_report(run)
    assert run.report_file.read_text() == html
    run.pictures_file.unlink()
    write_report(run)
    assert not page_of(run).values("src")


def test_mistakes_are_shown_with_their_pictures_the_surest_first(finished: RunFolder) -> None:
    rows = pq.read_table(finished.predictions_file, columns=["id", "label", "predicted", "score"]).to_pylist()
    wrong = sorted((row for row in rows if row["label"] != row["predicted"]), key=lambda row: -row["score"])
    kept = [row for row in pq.read_table(finished.pictures_file).to_pylist() if row["why"] == "mistake"]
    assert [row["id"] for row in kept] == [row["id"] for row in wrong[:24]]
    assert [row["label"] for row in kept] == [row["label"] for row in wrong[:24]]
    shown = page_of(finished).values("title")
    assert [title for title in shown if title in {row["id"] for row in rows}] == [row["id"] for row in kept]


def test_figures_are_described_and_take_the_colours_of_the_page(finished: RunFolder) -> None:
    svgs = page_of(finished).svgs
    assert len(svgs) == 8  # four curves, confusion, reliability before and after, coverage
    assert all(svg.get("role") == "img" and len(svg.get("aria-label", "")) > 20 for svg in svgs)
    for svg in svgs:
        drawn = ElementTree.tostring(svg, encoding="unicode")
        assert "var(--soft)" in drawn
        assert not re.search("<[^>]*#0102", drawn)
        assert "DejaVu" not in drawn
        assert [text for text in svg.iter("{http://www.w3.org/2000/svg}text") if text.text]
    drawn = "".join(svgs[4].itertext())
    assert all(name in drawn for name in ("font-family: x", "#010203", "$x^2$ \\frac", "{{ 7 * 7 }}", "null"))


@pytest.mark.parametrize(("classes", "labels"), [(2, True), (12, True), (100, False)])
def test_confusion_can_be_read_with_few_classes_and_with_many(classes: int, labels: bool) -> None:
    rng = np.random.default_rng(0)
    names = tuple(f"$name {index}" for index in range(classes))
    truth = np.repeat(np.arange(classes, dtype=np.int32), 20)
    logits = rng.standard_normal((len(truth), classes)).astype(np.float32)
    logits[np.arange(len(truth)), truth] += 1
    metrics = compute_metrics(logits, truth, names)
    svg = str(confusion_figure(metrics))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert ("$name 1" in texts) == labels
    assert len(texts) <= 2 * classes + classes**2 + 2 if labels else len(texts) < 20
    pairs = most_confused(metrics)
    assert [pair.examples for pair in pairs] == sorted((pair.examples for pair in pairs), reverse=True)
    confusion = np.array(metrics.confusion)
    np.fill_diagonal(confusion, 0)
    assert pairs[0].examples == confusion.max()
    assert confusion[names.index(pairs[0].label), names.index(pairs[0].predicted)] == confusion.max()


def test_long_curves_keep_their_extremes_and_short_ones_their_points() -> None:
    steps = np.arange(20_000.0)
    values = np.sin(steps / 50)
    values[777] = 9.0
    kept, shown = thinned(steps, values)
    assert len(kept) <= MOST_POINTS
    assert (shown.max(), kept[shown.argmax()]) == (9.0, 777)
    assert thinned(steps[:12], values[:12])[0] is not None
    np.testing.assert_array_equal(smoothed(values[:12]), values[:12])
    np.testing.assert_allclose(smoothed(np.ones(1000)), 1)


@pytest.mark.parametrize(
    "log",
    [
        [],
        [{"kind": "step", "step": 1, "loss": None, "learning_rate": 0.0, "images_per_second": 5.0}],
        [{"kind": "step", "step": 1, "loss": 0.0, "gradient_norm": 1.0, "learning_rate": 0.1, "images_per_second": 5}],
    ],
)
def test_curves_of_what_little_there_is(log: list[dict[str, object]]) -> None:
    assert len(curves(log)) == {0: 0, 1: 2}.get(len(log) if not log or log[0]["loss"] is None else 9, 4)


def test_intervals_and_thresholds() -> None:
    interval = wilson(0, 10)
    assert (interval.low, round(interval.high, 4)) == (0.0, 0.2775)  # Wilson 1927, z 1.96
    assert wilson(0, 0).high == 1.0
    logits = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1, 0]]
    metrics = compute_metrics(logits, np.array([0, 0, 0, 1, 1, 1], np.int32), ("a", "b"))
    around = balanced(metrics.per_class)
    assert around.low < metrics.balanced_accuracy < around.high
    assert balanced(metrics.per_class) == around
    curve = coverages(np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([True, True, True, False]))
    (ninety, *_) = thresholds(curve, 4)
    assert (ninety.found.threshold, ninety.kept, ninety.found.accuracy) == (pytest.approx(0.7), 3, 1.0)
    assert thresholds(coverages(np.ones(4, np.float32), np.ones(4, bool)), 4) == []


def test_every_export_is_told_of(run: RunFolder) -> None:
    small = {"format": "litert", "quantize": "int8", "path": "int8.tflite", "bytes": 4_000_000, "examples": 200}
    small |= {"top1_agreement": 0.965, "largest_difference": 0.08, "accuracy_before": 0.7, "accuracy_after": 0.69}
    run.parity_file.write_text(json.dumps({"saved_model": PARITY, "litert-int8": {**PARITY, **small}}))
    write_report(run)
    html = run.report_file.read_text()
    assert "litert-int8" in html
    assert "96.5\N{NO-BREAK SPACE}%" in html
    assert "4.0 MB" in html


# How to repeat and use it


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dataset": "it's a --batch 3", "budget": "1.5h", "memory_limit": "8GiB", "random_flip": False},
        {"base_lr": 1e-5, "random_crop": True, "skip_corrupt": True, "input_range": "0,255", "remat": False},
        {"seed": 3, "mixup": 0.0, "exclude": "out list.csv", "train_split": "train[:98%]", "preset": "light"},
        {"budget": 100.25, "memory_limit": 500_000_001},
    ],
)
def test_the_command_repeats_the_recipe(options: dict[str, object]) -> None:
    recipe = make_recipe({"dataset": "photos", **options}, Recipe)
    words = shlex.split(command_of(recipe).replace("\\\n", " "))
    assert words[:2] == ["hyperrule", "finetune"]
    flags = finetune_command.make_context("finetune", words[2:]).params
    for name in ("out", "restartable", "run", "as_json"):
        flags.pop(name)
    assert make_recipe(collect(flags.pop("recipe"), flags.pop("assignments"), flags), Recipe) == recipe


# The model card


def test_front_matter_is_yaml_and_holds_the_figures(finished: RunFolder) -> None:
    card = finished.card_file.read_text(encoding="utf-8")
    assert card.startswith("---\n")
    front = yaml.safe_load(card.split("\n---\n")[0])
    (model,) = front["model-index"]
    (result,) = model["results"]
    figures = json.loads(finished.eval_file.read_text())
    assert front["pipeline_tag"] == "image-classification"
    assert model["name"] == "a <b> run"
    assert result["dataset"]["name"] == "images.csv"
    assert {row["type"]: row["value"] for row in result["metrics"]} == {
        "accuracy": pytest.approx(figures["top1"], abs=1e-6),
        "balanced_accuracy": pytest.approx(figures["balanced_accuracy"], abs=1e-6),
        "loss": pytest.approx(figures["loss"], abs=1e-6),
        "top_5_accuracy": pytest.approx(figures["top5"], abs=1e-6),
        "expected_calibration_error": pytest.approx(figures["calibration"]["after"]["ece"], abs=1e-6),
    }
    for heading in ("Deviations", "Intended use and limits", "Weakest classes", "Calibration", "Exports", "Repeat it"):
        assert f"\n## {heading}" in card
    assert "uint8 [N, height, width, 3]" in card
    tables = [line for line in card.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {4, 5, 6}


def test_front_matter_survives_any_name(finished: RunFolder) -> None:
    run = read_run(finished)
    for name in STRANGE:
        dataset = run.plan.dataset.model_copy(update={"name": name, "location": None})
        renamed = replace(run, plan=run.plan.model_copy(update={"dataset": dataset}), folder=RunFolder(Path(name)))
        front = yaml.safe_load(model_card(renamed).split("\n---\n")[0])
        assert front["model-index"][0]["name"] == Path(name).name
        assert front["model-index"][0]["results"][0]["dataset"]["name"] == name


# The end of a run


def test_a_report_that_cannot_be_made_does_not_cost_the_run(run: RunFolder, capsys: pytest.CaptureFixture) -> None:
    run.card_file.unlink()
    run.checkpoints.mkdir()

    def fail(error: Exception) -> Callable[[], None]:
        return lambda: (_ for _ in ()).throw(error)

    with pytest.raises(Interrupted):
        finish_run(run, Reporter(), fail(Interrupted("stopped", 15)))
    assert run.checkpoints.exists()
    assert not run.finished
    finish_run(run, Reporter(), fail(ValueError("no\nluck")))
    assert "report.html could not be written (no luck)" in " ".join(capsys.readouterr().err.split())
    assert run.finished
    assert not run.checkpoints.exists()


# hyperrule report


def test_report_prints_where_it_is_and_needs_neither_tensorflow_nor_pyplot(run: RunFolder, finished: RunFolder) -> None:
    code = (
        "import sys; from hyperrule.cli import main\ntry: main()\n"
        "finally: assert not {'tensorflow', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(run.path), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["report"], told["model_card"]) == (str(run.report_file), str(run.card_file))
    assert "accuracy" in told["results"][str(run.path)]
    with run.locked():  # nobody holds it any more
        pass
    printed = report(finished.path).stdout.splitlines()
    assert "accuracy" in printed[0]
    assert printed[1:] == [f"report      {finished.report_file}", f"model card  {finished.card_file}"]


def test_several_runs_side_by_side(
    finished: RunFolder, other: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = other.card_file.read_text()
    made = report(finished.path, other.path)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "report      report.html"
    assert other.card_file.read_text() == before
    html = Path("report.html").read_text()
    page = Page(html)
    rows = [
        {row["id"] for row in pq.read_table(run.predictions_file).to_pylist() if row["label"] == row["predicted"]}
        for run in (finished, other)
    ]
    assert f"{len(rows[1] - rows[0])} images gained, {len(rows[0] - rows[1])} lost" in html
    assert "not comparable" not in html.lower()
    assert re.search(r"<th scope=\"row\">seed</th><td>0</td><td>1</td>", html)
    assert '<th scope="row">crop</th>' not in html
    assert "F1 of each class" in html
    assert "a &lt;b&gt; run" in html
    assert "script" not in page.tags
    assert len(page.svgs) == 3
    made = hyperrule.report([other.path, finished.path], out="report.html")  # in the place of a page of its own
    assert os.fspath(made) == "report.html"


def test_runs_on_other_data_are_marked(finished: RunFolder, tmp_path: Path) -> None:
    two = make_run(tmp_path / "two", make_data(tmp_path / "data", ["cat", "dog"]), steps=3)
    made = report(finished.path, two.path, "--out", tmp_path / "page.html")
    assert made.exit_code == 0, made.stderr
    html = (tmp_path / "page.html").read_text()
    assert html.count("other data: images.csv") == 1
    assert "Not comparable" in html
    assert "gained" not in html.split("</table>")[0]
    assert "F1 of each class" not in html


def _overwrite(name: str, content: str) -> Callable[[RunFolder], object]:
    return lambda run: (run.path / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda run: shutil.rmtree(run.path), ["no run folder", "plan.json"], id="no folder"),
        pytest.param(lambda run: run.card_file.unlink(), ["unfinished run", "--resume"], id="unfinished"),
        pytest.param(_overwrite("plan.json", '{"format": 99}'), ["format 99", "this version reads"], id="newer"),
        pytest.param(lambda run: run.eval_file.unlink(), ["eval.json is missing"], id="no eval"),
        pytest.param(_overwrite("eval.json", '{"top1": 1}'), ["eval.json is damaged"], id="eval"),
        pytest.param(_overwrite("eval.json", "\0"), ["eval.json is damaged"], id="eval is no JSON"),
        pytest.param(
            lambda run: run.predictions_file.unlink(), ["predictions.parquet is missing"], id="no predictions"
        ),
        pytest.param(_overwrite("predictions.parquet", "PAR1"), ["predictions.parquet is damaged"], id="predictions"),
        pytest.param(_overwrite("pictures.parquet", "PAR1"), ["pictures.parquet is damaged", "Delete"], id="pictures"),
        pytest.param(_overwrite("export/parity.json", "[]"), ["parity.json is damaged"], id="parity"),
        pytest.param(_overwrite("metrics.jsonl", "5\n"), ["metrics.jsonl is damaged"], id="log"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(
    run: RunFolder, damage: Callable[[RunFolder], object], words: list[str]
) -> None:
    damage(run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    result = report(run.path)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert [word for word in words if word not in line] == []
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_file_that_is_no_report_is_not_overwritten(finished: RunFolder, other: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own hyperrule report</p>")
    for out, words in (
        (mine, "was not written by hyperrule report"),
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere" / "page.html", "there is no folder"),
    ):
        result = report(finished.path, other.path, "--out", out)
        assert result.exit_code == 2
        assert words in result.stderr
    assert mine.read_text() == "<p>my own hyperrule report</p>"
    assert report(finished.path, finished.path).exit_code == 2


# Distillations


def test_a_distillation_has_a_page_and_a_card_too(finished: RunFolder, image_folder: Path, tmp_path: Path) -> None:
    plan = hyperrule.plan_distillation(teacher="random-r26x0.5", dataset=str(image_folder), steps=5, crop=32, batch=4)
    run = RunFolder(tmp_path / "student")
    run.create(plan)
    figures = {"kl": 0.25, "features_r2": 0.5, "labelled": 0, "teacher_top1": None, "student_top1": None}
    agreed = [
        Agreement(name=name, examples=40, top1_agreement=0.875, feature_norm=3.0, **figures)
        for name in ("all", "<i>pool</i>")
    ]
    run.write(run.eval_file, Agreements(overall=agreed[0], by_data_set=tuple(agreed[1:])).model_dump_json())
    finish_run(run, Reporter())
    html = run.report_file.read_text()
    assert "87.5\N{NO-BREAK SPACE}%" in html
    assert "&lt;i&gt;pool&lt;/i&gt;" in html
    assert "use-finetune" in html
    assert "use-tensorflow" not in html
    card = run.card_file.read_text()
    assert "pipeline_tag" not in yaml.safe_load(card.split("\n---\n")[0])
    assert "87.50% of 40 held-out images" in card
    again = Path(shutil.copytree(run.path, tmp_path / "again"))
    assert report(run.path, again, "--out", tmp_path / "page.html").exit_code == 0
    mixed = report(finished.path, run.path, "--out", tmp_path / "mixed.html")
    assert (mixed.exit_code, "one kind" in mixed.stderr) == (2, True)


def test_pictures_are_small_and_upright(finished: RunFolder, tmp_path: Path) -> None:
    rows = pq.read_table(finished.pictures_file).to_pylist()
    samples = [row for row in rows if row["why"] == "sample"]
    assert {row["label"] for row in samples} == set(STRANGE)
    assert all(row["jpeg"][:2] == b"\xff\xd8" for row in rows)
    (tmp_path / "one.jpg").write_bytes(samples[0]["jpeg"])
    with Image.open(tmp_path / "one.jpg") as image:
        assert max(image.size) <= 96


def test_unwritable_card_leaves_the_run_to_be_resumed(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.card_file.unlink()
    monkeypatch.setattr("hyperrule.reporting.make.write_card", lambda _: (_ for _ in ()).throw(RunError("disk full")))
    with pytest.raises(RunError, match="disk full"):
        finish_run(run, Reporter())
    assert not run.finished
