"""Results of `hyperrule bench`: figures over seeds, comparisons, published figures, in every output format."""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pages import Page

from hyperrule.benchmark.ledger import Line
from hyperrule.benchmark.results.output import Form, write_tables
from hyperrule.benchmark.results.plot import panels
from hyperrule.benchmark.results.published import Beside, beside_published, literature
from hyperrule.benchmark.results.summary import Summary, compare, summarise, vtab_scores
from hyperrule.data.sources.vtab import TASKS
from hyperrule.errors import RecipeError, RunError
from hyperrule.evaluation.intervals import bootstrap_mean, paired_mean

FORMS: tuple[Form, ...] = ("terminal", "markdown", "csv", "latex", "html", "svg")
STRANGE = [
    "<script>alert(1)</script>", "a|b & 50_% #1 ~^", "\\end{table}$x$", "[0] *star*", "x\x1b[31m\u202ey\udcff",
    "{{ 7 * 7 }}\nnew line", "=1+1", "日本語 🐈",
]  # fmt: skip


def line(top1: float | None = 0.5, **changed: Any) -> Line:
    """Of the embedded backbone's 5-shot probe on CIFAR-10, seed 0."""
    known = {
        "dataset": "cifar10", "backbone": "bit-r26x0.5", "method": "probe", "shots": 5, "seed": 0, "size": 128,
        "examples": 10_000, "trained_on": 50, "seconds": 1.0, "data_sha256": "d", "weights_sha256": "w", "versions": {},
        "status": "failed" if top1 is None else "done",
    }  # fmt: skip
    values = known | changed
    return Line.model_validate({"key": str(sorted(map(str, values.items()))), "top1": top1, **values})


def over_seeds(*top1: float | None, **changed: Any) -> list[Line]:
    return [line(value, seed=seed, **changed) for seed, value in enumerate(top1)]


def written(lines: list[Line], form: Form, **options: Any) -> str:
    stream = io.StringIO()
    write_tables(lines, form, stream, **options)
    return stream.getvalue()


def rows(lines: list[Line], **options: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written(lines, "csv", **options))))


def only(found: Iterable[Any]) -> Any:
    (one,) = found
    return one


GRID = [
    *over_seeds(0.30, 0.40, 0.35, 0.38, 0.31),
    *over_seeds(0.50, 0.52, 0.54, 0.56, 0.58, shots=25, trained_on=250),
    *over_seeds(0.71, 0.71, shots="full", trained_on=50_000),
    *over_seeds(0.40, 0.40, 0.45, 0.48, 0.30, backbone="efficientnet-lite0", weights_sha256="v"),
    *over_seeds(0.33, None, None, method="finetune", error="out of memory"),
]


# Figures


def test_figures_over_seeds_are_what_one_counts_by_hand() -> None:
    first = summarise(GRID)[0]
    assert (first.min, first.median, first.max, first.seeds) == (0.30, 0.35, 0.40, 5)
    assert first.mean == pytest.approx((0.30 + 0.40 + 0.35 + 0.38 + 0.31) / 5)
    assert summarise(over_seeds(0.2, 0.3))[0].median == pytest.approx(0.25)


def test_the_bootstrap_of_three_values_is_its_27_resamples() -> None:
    interval = bootstrap_mean([0.1, 0.2, 0.6])
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(0.1), pytest.approx(0.6))  # Hesterberg: 7e-8 of 27
    assert bootstrap_mean([0.1]) is None
    constant = bootstrap_mean([0.5] * 5)
    assert constant is not None
    assert constant.low == constant.high == 0.5


def test_of_five_values_a_thousandth_of_the_resamples_is_left_out_at_each_end() -> None:
    values = [0.0, 1.0, 2.0, 3.0, 4.0]
    interval = bootstrap_mean(values)
    assert interval is not None
    # 1 of 3,125 resamples has the mean 0, and 5 have 0.2: Student's t with 4 degrees says 0.00095, or 3 of 3,125.
    assert (interval.low, interval.high) == (pytest.approx(0.2), pytest.approx(3.8))


def test_the_bootstrap_of_many_values_is_as_wide_as_students_t() -> None:
    values = list(np.random.default_rng(0).normal(size=40))
    drawn, paired = bootstrap_mean(values), paired_mean(values)
    assert drawn is not None
    assert paired is not None
    assert drawn.high - drawn.low == pytest.approx(paired.high - paired.low, rel=0.05)


# What is not there


def test_failed_and_missing_cells_are_shown() -> None:
    expected = [*GRID, *over_seeds(0, 0, 0, method="head")]
    summary, head = (one for one in summarise(GRID, expected) if one.group.method in ("finetune", "head"))
    assert (summary.top1, summary.failed) == ({0: 0.33}, {1: "out of memory", 2: "out of memory"})
    assert (head.newest, head.missing) == (None, (0, 1, 2))
    for form in ("terminal", "markdown", "latex", "html"):
        text = written(GRID, form, cells=expected)
        assert "1 of 3: 2 failed" in text
        assert "0 of 3: 3 missing" in text
        assert re.search(r"\b1, 2\b\W.*failed: out of memory", text, re.DOTALL)
    shown = rows(GRID, cells=expected)
    assert [
        (row["done"], row["failed"], row["missing"], row["median"]) for row in shown if row["method"] == "head"
    ] == [("0", "0", "3", "")]


def test_the_l2_that_probes_chose_does_not_divide_them_but_one_each_does() -> None:
    chosen = [line(0.4, seed=0, l2=1.0), line(0.5, seed=1, l2=2.0)]
    asked = [one.model_copy(update={"l2": None}) for one in chosen]
    assert [one.group.measured_by for one in summarise(chosen, asked)] == ["probe"]
    each = [*chosen, line(0.3, seed=0, l2=2.0)]
    assert {one.group.measured_by: one.top1 for one in summarise(each, each)} == {
        "probe, l2 1": {0: 0.4},
        "probe, l2 2": {0: 0.3, 1: 0.5},
    }


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_ledger_is_refused_before_a_file_is_touched(form: Form, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no finished cell yet"):
        write_tables([], form, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="cannot write"):
        write_tables(GRID, form, tmp_path / "none" / "out")


# Comparison


def test_two_backbones_are_compared_seed_by_seed() -> None:
    found = only(compare(summarise(GRID), "efficientnet-lite0", "bit-r26x0.5"))
    assert (found.dataset, found.of, found.shots) == ("cifar10", "probe", 5)
    assert found.differences == [0.1, 0, 0.1, 0.1, -0.01]
    assert (found.wins, found.ties, found.losses) == (3, 1, 1)
    assert found.mean == pytest.approx(0.058)
    half = 2.7764 * np.std(found.differences, ddof=1) / np.sqrt(5)  # t of 4 degrees of freedom
    assert (found.interval.low, found.interval.high) == (
        pytest.approx(0.058 - half, abs=1e-5),
        pytest.approx(0.058 + half, abs=1e-5),
    )
    by_seed = rows(GRID, against=("efficientnet-lite0", "bit-r26x0.5"))
    assert [row["difference"] for row in by_seed] == ["0.1", "0", "0.1", "0.1", "-0.01"]


def test_two_methods_are_compared_on_the_seeds_that_both_have() -> None:
    found = only(compare(summarise(GRID), "finetune", "probe"))
    assert (found.of, found.by_seed, found.interval) == ("bit-r26x0.5", {0: (0.33, 0.30)}, None)


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("finetune", "head", "'head': backbones are bit-r26x0.5, efficientnet-lite0; methods probe, finetune"),
        ("efficientnet-lite", "bit-r26x0.5", "Did you mean 'efficientnet-lite0'"),
        ("probe", "bit-r26x0.5", "a backbone and a method"),
        ("probe", "probe", "with itself"),
        ("bit-r26x0.5", "elsewhere", "share no finished cell"),
        ("bit-r26x0.5", "other data", "share no finished cell"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused_in_one_line(one: str, other: str, why: str) -> None:
    lines = list(GRID)
    if other == "elsewhere":
        lines += over_seeds(0.2, 0.3, backbone=other, shots=10)
    if other == "other data":
        lines += over_seeds(0.2, 0.3, backbone=other, data_sha256="e")
    with pytest.raises(RecipeError) as error:
        compare(summarise(lines), one, other)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


# What was published


def beside(*top1: float, **changed: Any) -> list[Beside]:
    return beside_published(summarise(over_seeds(*top1, **changed)))


LIKE_THEIRS = {
    "backbone": "BiT-M-R50x1.npz",
    "method": "finetune",
    "settings": {
        "batch": 128,
        "base_lr": 0.001,
        "steps": 500,
        "mixup": 0.0,
        "random_crop": True,
        "precision": "bfloat16",
    },
}


def test_the_same_protocol_is_comparable_with_all_that_was_published_of_it() -> None:
    found = beside(0.84, 0.83, 0.85, 0.82, 0.86, **LIKE_THEIRS)
    assert [(one.published.table.source, one.published.figures.median) for one in found] == [
        ("BiT's code, TensorFlow 2", 83.3),
        ("BiT's code, Jax", 82.4),
        ("BiT's code, PyTorch", 82.3),
    ]
    assert all(one.comparable for one in found)
    assert found[0].difference == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"backbone": "bit-r26x0.5"}, "other backbone weights"),
        ({"method": "finetune-probe"}, "not by finetune"),
        ({"size": 64}, "64 px, not 128"),
        ({"examples": 9_728}, "9,728 test images, not 10,000"),
        ({"trained_on": 45}, "45 training images, not 50"),
        ({"shots": "full", "trained_on": 40_000}, "40,000 training images, not 50,000"),
        ({"settings": {"batch": 512}}, "batch 512, not 128"),
        ({"settings": {"base_lr": 0.01}}, "base lr 0.01, not 0.001"),
        ({"settings": {"steps": 100}}, "steps 100, not 500"),
        ({"settings": {"random_flip": False}}, "without random flip"),
        ({"settings": {"resize": 128}}, "resize 128, not 160"),
    ],
)
def test_what_is_not_comparable_says_why(changed: dict[str, Any], why: str) -> None:
    assert why in beside(0.84, 0.83, 0.85, 0.82, 0.86, **(LIKE_THEIRS | changed))[0].reasons
    assert "1 subset, not 5" in beside(0.84, **(LIKE_THEIRS | changed))[0].reasons


def test_names_of_data_sets_and_backbones_are_matched_loosely_but_not_wrongly() -> None:
    assert {one.published.dataset for one in beside(0.5, dataset="data/CIFAR-100")} == {"cifar100"}
    assert {one.published.dataset for one in beside(0.5, dataset="tfds:cifar10:3.*.*")} == {"cifar10"}
    assert not beside(0.5, dataset="cifar10small")
    assert not beside(0.5, shots=7)
    assert len(beside(0.5, backbone="https://tfhub.dev/google/bit/m-r50x1/1")) == 3
    assert len(beside(0.5, backbone="efficientnet-lite0")) == 1


def test_the_published_figures_are_those_of_the_sources() -> None:
    every = [
        figures
        for table in literature().tables
        for by_dataset in table.figures.values()
        for dataset, by_shots in by_dataset.items()
        for figures in by_shots.values()
        if dataset in literature().data_sets
    ]
    assert len(every) == 8 * 6 + 8 + 2 + 6
    assert all((one.min is None) == (one.max is None) for one in every)
    assert all(one.min <= one.median <= one.max for one in every if one.min is not None and one.max is not None)


# Forms


def test_markdown_latex_and_csv_say_the_same() -> None:
    assert "| bit-r26x0.5 | probe | 5 | 30.0 | 35.0 | 40.0 | 34.8 |" in written(GRID, "markdown")
    assert r"bit-r26x0.5 & probe & 5 & 30.0 & 35.0 & 40.0 & 34.8 &" in written(GRID, "latex")
    assert "bit-r26x0.5          probe          5   30.0     35.0   40.0   34.8" in written(GRID, "terminal")
    first = rows(GRID)[0]
    assert (first["min"], first["median"], first["published_median"], first["difference"]) == (
        *("0.3", "0.35", "0.833", "-0.483"),
    )
    assert (first["comparable"], first["not_comparable_because"]) == (
        "false",
        "other backbone weights; not by finetune",
    )


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("form", FORMS)
def test_names_are_text_in_every_form(name: str, form: Form, tmp_path: Path) -> None:
    lines = [
        *over_seeds(0.3, 0.4, dataset=name, backbone=name),
        *over_seeds(0.5, None, dataset=name, backbone="other", error=name),
    ]
    file = tmp_path / "out"
    write_tables(lines, form, file, against=(name, "other"), title=name)
    text = file.read_text(encoding="utf-8")
    assert not re.search("[\x1b\u202e\udcff]", text)
    if form == "markdown":
        assert all(len(re.findall(r"(?<!\\)\|", row)) in (0, 7, 8, 9, 10, 11) for row in text.splitlines())
        assert "<script>" not in text
    if form == "latex":
        body = re.sub(r"\\[{}$&#%_]", "", text)
        assert text.count(r"\end{table}") == text.count(r"\begin{table}")
        assert body.count("{") == body.count("}")
        assert not re.search(r"^[\[*]", text, re.MULTILINE)
        assert all(row.count("&") in (0, 5, 6, 7, 8, 9) for row in body.splitlines())
    if form == "html":
        assert not {"script", "b", "iframe"} & set(Page(text).tags)
        assert "49" not in Page(text).texts.get("data1", "")
    if form == "svg":
        assert ElementTree.fromstring(text.encode()).tag == "{http://www.w3.org/2000/svg}svg"


# Figures that are drawn


def test_the_page_has_its_figures_with_text_and_ids_once() -> None:
    html = written(GRID, "html", against=("probe", "finetune"))
    page = Page(html)
    assert '>5</td><td class="number">30.0</td><td class="number">35.0</td><td class="number">40.0</td>' in html
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert all("Medians: " in text for text in page.values("aria-label") if "Accuracy" in text)
    assert len(page.svgs) == 2  # backbones for the probe, methods for the embedded backbone
    assert "bit-r26x0.5 35.0 % at 5, 54.0 % at 25, 71.0 % at full" in page.values("aria-label")[0]


def test_the_plot_is_a_file_of_its_own_in_light_and_dark() -> None:
    text = written(GRID, "svg")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label", "").startswith("Accuracy by images per class, cifar10, probe")
    assert "prefers-color-scheme: dark" in text
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert {"--bar", "--accent", "--ink"} <= used <= set(re.findall(r"(--\w+):", text))
    assert not re.search(r"#0102\d\d", text)


def test_there_is_a_panel_even_where_nothing_is_compared() -> None:
    def titles(lines: list[Line]) -> list[str]:
        return [panel.title for panel in panels(summarise(lines))]

    assert titles(over_seeds(0.3)) == ["probe"]
    assert titles([*over_seeds(0.3), *over_seeds(0.4, method="head")]) == ["bit-r26x0.5"]
    assert titles([*over_seeds(None, error="x")]) == []


def test_full_stands_where_its_images_a_class_are() -> None:
    summaries: list[Summary] = summarise([*over_seeds(0.3), *over_seeds(0.4, shots="full", trained_on=50)])
    assert "5 = full" in written([*over_seeds(0.3), *over_seeds(0.4, shots="full", trained_on=50)], "svg")
    assert [one.group.shots for one in summaries] == [5, "full"]


# VTAB-1k


def test_the_score_of_vtab_is_the_mean_over_tasks_of_each_seed_beside_the_published_one() -> None:
    tasks: dict[str, Any] = {"backbone": "bit-m-r101x3", "method": "finetune", "shots": "full", "trained_on": 1000}
    lines = [
        made
        for name, task in TASKS.items()
        for made in over_seeds(*(top1 + (task.group == "natural") / 10 for top1 in (0.5, 0.7)), dataset=name, **tasks)
    ]
    found = {one.group.dataset: one for one in vtab_scores(summarise(lines))}
    assert found["vtab-1k"].top1 == pytest.approx({0: 0.5 + 0.7 / 19, 1: 0.7 + 0.7 / 19})
    assert found["vtab-1k, natural"].top1 == pytest.approx({0: 0.6, 1: 0.8})
    shown = {row["dataset"]: row for row in rows(lines)}
    assert float(shown["vtab-1k"]["published_median"]) == pytest.approx(0.7265)
    assert len(shown) == 19 + 4
    assert "19 data sets, 1 backbone: all 38 cells done" in written(lines, "html")

    del lines[0]  # of the first task, natural, seed 0
    assert [(one.group.dataset, list(one.top1)) for one in vtab_scores(summarise(lines))] == [
        ("vtab-1k", [1]),
        ("vtab-1k, natural", [1]),
        ("vtab-1k, specialized", [0, 1]),
        ("vtab-1k, structured", [0, 1]),
    ]
    assert not list(vtab_scores(summarise([one.model_copy(update={"trained_on": 1020}) for one in lines])))
