"""`hyperrule bench`: the grid, the ledger, the division of work, and the result of a cell."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from command_line import SMALL, start

import hyperrule
from hyperrule.backbones.describe import describe_backbone
from hyperrule.benchmark import run_grid as grid_module
from hyperrule.benchmark.cells import PreparedCell, planned_cells
from hyperrule.benchmark.engines import local, trained
from hyperrule.benchmark.engines import work as work_module
from hyperrule.benchmark.engines.handover import read_planned, write_planned
from hyperrule.benchmark.engines.tasks import Assignment, Task
from hyperrule.benchmark.engines.work import work
from hyperrule.benchmark.folder import BenchFolder
from hyperrule.benchmark.grid import Cell, Grid, read_grid
from hyperrule.benchmark.ledger import Line, append, at_work, claim, read_ledger
from hyperrule.benchmark.run_grid import plan_grid, run_grid
from hyperrule.cli import main
from hyperrule.data.images import Examples
from hyperrule.data.open import open_source
from hyperrule.errors import DataError, Interrupted, RunError, RunFolderError
from hyperrule.evaluation.features import features_file, features_of
from hyperrule.evaluation.probe import fit_probe
from hyperrule.planning.finetune import training_examples
from hyperrule.support.files import file_lock
from hyperrule.support.progress import Reporter

QUIET = Reporter(quiet=True)
TRAINING = {name: SMALL[name] for name in ("batch", "resize", "precision", "checkpoint_every")}
LINE = Line(
    key="a" * 64,
    dataset="pets",
    backbone="b",
    method="probe",
    shots=5,
    seed=0,
    status="done",
    top1=0.5,
    size=32,
    seconds=1.0,
    data_sha256="d",
    weights_sha256=None,
    versions={},
)


@pytest.fixture
def pets(image_folder: Path) -> dict[str, Any]:
    """A grid of two classes of 8 images each to train on, and 2 to test on."""
    return {
        "datasets": {"pets": {"dataset": str(image_folder), "test": "held-out"}},
        "backbones": ["bit-r26x0.5"],
        "shots": [1, 4],
        "seeds": 2,
        "crop": 32,
        "methods": {"probe": {"l2": [64, 1024]}},
    }


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def planned(grid: dict[str, Any]) -> list[PreparedCell]:
    asked = Grid.model_validate(grid)
    return planned_cells(asked, asked.cells(), QUIET).planned


def prepared(grid: dict[str, Any], path: Path) -> tuple[Grid, BenchFolder]:
    asked, folder = Grid.model_validate(grid), BenchFolder(path)
    folder.prepare(asked, planned_cells(asked, asked.cells(), QUIET).planned)
    return asked, folder


def work_through(grid: Grid, folder: BenchFolder, retry_failed: bool = False) -> list[Line]:
    every = planned_cells(grid, grid.cells(), QUIET).planned
    write_planned(folder.path / "planned.json", every)
    every = read_planned(folder.path / "planned.json")
    for task in dict.fromkeys(map(Task.of, grid.cells())):
        work(folder, [one for one in every if Task.of(one.cell) == task], retry_failed, QUIET)
    return read_ledger(folder.ledger_file)


def refused(grid: dict[str, Any], tmp_path: Path, *arguments: str) -> str:
    """The one line with which the command line refuses a grid, after which nothing is there."""
    file, out = tmp_path / "grid.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(grid, sort_keys=False))
    result = CliRunner().invoke(main, ["bench", str(file), "--out", str(out), *arguments])
    lines = result.stderr.strip().splitlines()
    assert (result.exit_code, len(lines), result.stdout, out.exists()) == (2, 1, "", False), result.output
    return lines[0]


@pytest.mark.parametrize("options", [{}, {"skip_corrupt": True}, {"exclude": True}])
def test_what_is_handed_over_is_not_inspected_again(
    options: dict[str, Any], pets: dict[str, Any], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "exclude" in options:
        options = {"exclude": str(tmp_path / "out.csv")}
        (tmp_path / "out.csv").write_text("id\nwarm/03.jpg\n")
    if "skip_corrupt" in options:
        (image_folder / "cold" / "00.jpg").write_text("no image")
    pets["datasets"]["pets"] |= options
    before = planned(pets)
    write_planned(tmp_path / "0.json", before)
    monkeypatch.setattr("hyperrule.data.source.inspect", lambda *_: pytest.fail("inspected again"))
    after = read_planned(tmp_path / "0.json")
    assert [(one.cell, one.plan, one.l2, one.key) for one in after] == [
        (one.cell, one.plan, one.l2, one.key) for one in before
    ]
    ours, theirs = after[0].source, before[0].source
    assert ours.info == theirs.info
    for split in ("train", "test"):
        assert list(ours.examples(split).ids) == list(theirs.examples(split).ids)
        assert list(ours.examples(split).encoded()) == list(theirs.examples(split).encoded())


def test_data_that_changed_after_they_were_handed_over(
    pets: dict[str, Any], image_folder: Path, tmp_path: Path
) -> None:
    write_planned(tmp_path / "0.json", planned(pets))
    (image_folder / "warm" / "03.jpg").rename(image_folder / "warm" / "99.jpg")
    with pytest.raises(DataError, match="has other images than when the grid was planned"):
        read_planned(tmp_path / "0.json")
    shutil.rmtree(image_folder)
    with pytest.raises(DataError, match="does not exist"):
        read_planned(tmp_path / "0.json")


class Bomb:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_nothing_that_is_handed_over_is_run(pets: dict[str, Any], tmp_path: Path) -> None:
    cells, arrays, mark = tmp_path / "0.json", tmp_path / "0.npz", tmp_path / "exploded"
    write_planned(cells, planned(pets))
    whole, bomb = cells.read_bytes(), pickle.dumps(Bomb(mark))
    np.savez(tmp_path / "objects.npz", allow_pickle=True, facts=np.array([Bomb(mark)], object))
    for file, content in ((arrays, bomb), (arrays, (tmp_path / "objects.npz").read_bytes()), (cells, bomb)):
        file.write_bytes(content)
        with pytest.raises(RunFolderError, match=r"0\.json is damaged"):
            read_planned(cells)
    cells.write_bytes(whole)
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists()  # the bomb is live


def test_ledger_has_the_last_line_of_every_key(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    assert read_ledger(ledger) == []
    failed = LINE.model_copy(update={"status": "failed", "top1": None, "error": "no memory"})
    other = LINE.model_copy(update={"key": "b" * 64, "shots": "full"})
    for line in (failed, other, LINE):
        append(ledger, line)
    assert read_ledger(ledger) == [LINE, other]


@pytest.mark.parametrize(("cut", "kept"), [(1, 2), (2, 1), (40, 1)], ids=["line feed", "brace", "half"])
def test_half_a_line_at_the_end_is_ignored_and_mended(tmp_path: Path, cut: int, kept: int) -> None:
    ledger = tmp_path / "ledger.jsonl"
    lines = [LINE.model_copy(update={"key": key}) for key in "abc"]
    append(ledger, lines[0])
    append(ledger, lines[1])
    ledger.write_bytes(ledger.read_bytes()[:-cut])
    assert read_ledger(ledger) == lines[:kept]
    append(ledger, lines[2])
    assert read_ledger(ledger) == [*lines[:kept], lines[2]]
    assert all(map(json.loads, ledger.read_text().splitlines()))


def test_many_writers_lose_no_line(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    lines = [LINE.model_copy(update={"key": f"{number:064}"}) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: append(ledger, line), lines))
    assert sorted(read_ledger(ledger), key=lambda line: line.key) == lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 2}\n', "has format 2; this version reads 1"),
        ("{]\n" + LINE.model_dump_json(), "line 1 of"),
        ("[]\n", "is damaged"),
    ],
)
def test_another_ledger_is_refused(tmp_path: Path, text: str, said: str) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(text)
    with pytest.raises(RunFolderError, match=said):
        read_ledger(ledger)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"shotz": [1]},
            "unknown key 'shotz'. Allowed: datasets, backbones, shots, seeds, crop, methods. Did you mean",
        ),
        ({"methods": {"prob": {}}}, "unknown method 'prob'. Allowed: probe, head, finetune, finetune-probe. Did you"),
        ({"methods": {"probe": {"l3": 1}}}, "unknown key 'methods.probe.l3'. Allowed: l2, choose, shots, seeds."),
        ({"methods": {"head": {"stesp": 3}}}, "unknown option 'stesp'. Did you mean 'steps'?"),
        ({"methods": {"head": {"seed": 3}}}, "seed is set by the grid"),
        ({"methods": {"probe": {"l2": [0]}}}, "greater than 0. Received: 0"),
        ({"methods": {}}, "methods must name at least one of probe, head, finetune and finetune-probe"),
        ({"shots": [0]}, "Received: 0"),
        ({"shots": ["ful"]}, "'full'. Received: 'ful'"),
        ({"datasets": {}}, "datasets: "),
        ({"datasets": {"pets": {"test": "held-out"}}}, "datasets.pets.dataset is missing"),
        ({"shots": [1, 9]}, "shots: 9 is more than these classes of pets have for training: 'cold' (8), 'warm' (8)."),
        ({"backbones": ["bit-r27x0.5"]}, "unknown backbone 'bit-r27x0.5'. Did you mean"),
        ({"backbones": ["bit-l-r50x1"]}, "bit-l-r50x1 was never released"),
        ({"datasets": {"pets": {"dataset": "/nowhere"}}}, "data set /nowhere does not exist"),
        ({"datasets": {"pets": {"dataset": "vtab:pet"}}}, "VTAB-1k has no task 'pet'"),
        (
            {"datasets": {"pets": {"dataset": "vtab:pets", "data_dir": "/nowhere"}}},
            "data_dir: /nowhere is not a folder",
        ),
    ],
)
def test_a_mistake_in_a_grid_is_one_line(
    pets: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    assert said in refused({**pets, **change}, tmp_path)


def test_it_is_clear_which_images_are_the_test(pets: dict[str, Any], tmp_path: Path, image_folder: Path) -> None:
    pets["datasets"]["pets"].pop("test")
    assert "datasets.pets has no test split. Set test: held-out" in refused(pets, tmp_path)
    shutil.copytree(image_folder, tmp_path / "split" / "train")
    shutil.copytree(image_folder, tmp_path / "split" / "val")
    pets["datasets"]["pets"]["dataset"] = str(tmp_path / "split")
    assert "only train, validation. Set test_split: NAME" in refused(pets, tmp_path)
    shutil.copytree(image_folder, tmp_path / "split" / "test")
    assert refused(pets | {"datasets": {"pets": {**pets["datasets"]["pets"], "test": "held-out"}}}, tmp_path).endswith(
        "datasets.pets has its own test split: leave out test: held-out."
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "pest=x"], "has no data set 'pest'. It has: pets. Did you mean 'pets'?"),
        (["--dataset", "pets"], "--dataset takes NAME=PATH"),
        (["--jobs", "0"], "jobs must be from 1 to 256. Received: 0"),
        (["--status", "--dry-run"], "set one of them"),
        (["--dry-run", "--write", "out.html"], "need measurements: leave out --dry-run"),
        (
            ["--compare", "probe", "heed"],
            "no backbone or method is called 'heed': backbones are bit-r26x0.5",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    pets: dict[str, Any], tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in refused(pets, tmp_path, *arguments)


def test_a_folder_of_something_else_is_left_alone(pets: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    with pytest.raises(RunFolderError, match="is not empty and has no benchmark"):
        prepared(pets, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["diary.txt"]


def test_cells_of_a_grid(pets: dict[str, Any]) -> None:
    pets |= {"shots": ["full", 1], "methods": {"finetune": {"shots": 2, "seeds": 1}, "probe": {"l2": [1, 2]}}}
    pets["methods"]["probe"]["choose"] = "each"
    cells = Grid.model_validate(pets).cells()
    assert [(cell.method, cell.shots, cell.seed, cell.l2) for cell in cells] == [
        ("probe", 1, 0, 1),
        ("probe", 1, 0, 2),
        ("probe", 1, 1, 1),
        ("probe", 1, 1, 2),
        ("probe", "full", 0, 1),
        ("probe", "full", 0, 2),
        ("finetune", 2, 0, None),
    ]
    assert len({Task.of(cell) for cell in cells}) == 2


def test_subsets_are_nested_balanced_and_those_of_a_fine_tuning(pets: dict[str, Any], tmp_path: Path) -> None:
    pets["methods"]["finetune"] = None
    grid, folder = prepared(pets, tmp_path / "bench")
    for seed in (0, 1):
        few, more = (
            (folder.path / "subsets" / f"pets-{shots}-{seed}.txt").read_text().splitlines() for shots in (1, 4)
        )
        assert set(few) < set(more)
        assert [sum(name.startswith(kind) for name in more) for kind in ("cold", "warm")] == [4, 4]
        cell = Cell(dataset="pets", backbone="bit-r26x0.5", method="finetune", shots=4, seed=seed)
        (one,) = planned_cells(grid, [cell], QUIET).planned
        assert list(training_examples(one.plan.recipe, one.source).ids) == more


def test_keys_change_with_what_changes_the_result_alone(pets: dict[str, Any], tmp_path: Path) -> None:
    pets["methods"]["finetune"] = {"steps": 3}

    def keys(**changes: Any) -> list[str]:
        return [one.key for one in planned({**pets, **changes})]

    first = keys()
    assert len(set(first)) == len(first) == 8
    moved = shutil.copytree(pets["datasets"]["pets"]["dataset"], tmp_path / "moved")
    same = {"datasets": {"cats": {"dataset": str(moved), "test": "held-out"}}}
    methods = pets["methods"]
    assert keys(**same) == keys(methods={**methods, "finetune": {"steps": 3, "micro_batch": 2}}) == first
    probes, finetunes = first[:4], first[4:]
    for changes in ({"crop": 48}, {"backbones": ["random-r26x0.5"]}):
        assert not set(keys(**changes)) & set(first)
    assert set(keys(methods={**methods, "probe": {"l2": [64]}})) & set(first) == set(finetunes)
    assert set(keys(methods={**methods, "finetune": {"steps": 4}})) & set(first) == set(probes)
    (moved / "cold" / "00.jpg").unlink()
    assert not set(keys(**same)) & set(first)


def test_a_cell_belongs_to_one_process_until_that_dies(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hyperrule.benchmark.ledger import claim\n"
        "with claim(Path(sys.argv[1]), 'k', 'a cell') as mine: print(mine, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert at_work(tmp_path) == {"k": "a cell"}
        with claim(tmp_path, "k", "mine") as mine:
            assert not mine
        other.kill()
    with claim(tmp_path, "k", "mine") as mine:
        assert mine
    assert at_work(tmp_path) == {}


def test_probes_are_ridge_regressions_of_cached_features(pets: dict[str, Any], tmp_path: Path) -> None:
    grid, folder = prepared(pets, tmp_path / "bench")
    lines = work_through(grid, folder)
    assert [(line.shots, line.seed, line.status) for line in lines] == [
        (shots, seed, "done") for shots in (1, 4) for seed in (0, 1)
    ]
    (one,) = planned_cells(grid, [grid.cells()[-1]], QUIET).planned
    training, testing = training_examples(one.plan.recipe, one.source), one.source.examples("test")
    known, asked = (features_of(one.plan.backbone, images, 32, QUIET) for images in (training, testing))
    assert lines[-1].l2 is not None
    scores = fit_probe(known, training.labels, 2, lines[-1].l2).scores(asked)
    assert lines[-1].top1 == np.mean(scores.argmax(axis=1) == testing.labels)
    assert (lines[-1].examples, lines[-1].trained_on, lines[-1].size) == (4, 8, 32)

    before = folder.ledger_file.read_bytes()
    work_through(grid, folder)
    assert len(run_grid(grid, folder, local.run_locally, 1, False, QUIET).lines) == 4
    assert folder.ledger_file.read_bytes() == before
    ahead = plan_grid(Grid.model_validate({**pets, "shots": [1, 2, 4]}), folder, False, QUIET)
    assert [cell.state for cell in ahead.cells] == ["done", "done", "missing", "missing", "done", "done"]


def test_a_stopped_training_goes_on_and_leaves_its_figures(
    pets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets |= {"shots": 4, "seeds": 1, "methods": {"finetune-probe": {"steps": 2, **TRAINING}}}
    grid, folder = prepared(pets, tmp_path / "bench")
    conclude = trained.Measuring.conclude

    def stopped(job: trained.Measuring) -> None:
        monkeypatch.setattr(trained.Measuring, "conclude", conclude)
        raise Interrupted("stopped", signal.SIGTERM)

    monkeypatch.setattr(trained.Measuring, "conclude", stopped)
    with pytest.raises(Interrupted):
        work_through(grid, folder)
    assert read_ledger(folder.ledger_file) == []
    (line,) = work_through(grid, folder)
    assert (line.status, line.method, line.trained_on, line.settings["steps"]) == ("done", "finetune-probe", 8, 2)
    run = folder.run(line.key)
    assert sorted(file.name for file in run.path.iterdir()) == ["eval.json", "metrics.jsonl", "plan.json"]
    assert [step["step"] for step in run.read_metrics()] == [1, 2]
    assert json.loads(run.eval_file.read_text())["top1"] == line.top1


def test_a_failed_cell_has_its_reason_and_is_tried_again_when_asked(
    pets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, folder = prepared({**pets, "methods": {"head": {"steps": 1}}, "shots": 1}, tmp_path / "bench")
    outcomes = [RunError("no\nmemory"), ZeroDivisionError("division by zero")]

    def measure(one: PreparedCell, *_: object) -> Line:
        if outcomes:
            raise outcomes.pop(0)
        return one.done(0.5, 4, 2, 1.0)

    monkeypatch.setattr(trained, "measure", measure)
    errors = [line.error for line in work_through(grid, folder)]
    assert errors == ["no memory", "ZeroDivisionError: division by zero"]
    assert [line.error for line in work_through(grid, folder)] == errors
    assert [line.top1 for line in work_through(grid, folder, retry_failed=True)] == [0.5, 0.5]


@pytest.mark.parametrize("option", [{"test_split": "tset"}, {"image_key": "image"}, {"exclude": "/nowhere.txt"}])
def test_an_option_that_means_nothing_is_the_fault_of_the_grid(
    pets: dict[str, Any], tmp_path: Path, option: dict[str, str]
) -> None:
    pets["datasets"]["pets"] |= option
    assert refused(pets, tmp_path)


class Guessing:
    """Probes without features."""

    def __init__(self, *_: object) -> None:
        pass

    def measure(self, one: PreparedCell) -> Line:
        return one.done(0.5, 4, 2, 1.0, 64)


class Engine:
    """Executes tasks in this process; a task whose code in `codes` is not 0 dies with it before it starts."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def __call__(
        self, folder: Path, assignments: list[Assignment], jobs: int, ended: Callable[[Task, int], None]
    ) -> None:
        for assignment in assignments:
            code = self.codes.pop(0) if self.codes else 0
            if code == 0:
                planned = [one for one in read_planned(assignment.planned) if Task.of(one.cell) == assignment.task]
                work(BenchFolder(folder), planned, assignment.retry_failed, QUIET)
            ended(assignment.task, code)


def measured(
    grid: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *codes: int
) -> tuple[int, str, str, list[Line]]:
    """What the command line says of a grid of probes, and the ledger."""
    monkeypatch.setattr(grid_module, "run_locally", Engine(*codes))
    monkeypatch.setattr(work_module, "Probing", Guessing)
    file, out = tmp_path / "grid.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(grid, sort_keys=False))
    result = CliRunner().invoke(main, ["bench", str(file), "--out", str(out)])
    return result.exit_code, result.stdout, result.stderr, read_ledger(out / "ledger.jsonl")


def asked(grid: dict[str, Any], tmp_path: Path, *options: str) -> dict[str, Any]:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(grid, sort_keys=False))
    result = CliRunner().invoke(main, ["bench", str(file), "--out", str(tmp_path / "out"), "--json", *options])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def with_damaged(pets: dict[str, Any], image_folder: Path) -> dict[str, Any]:
    """The grid with a second data set, of which an image is none."""
    damaged = Path(shutil.copytree(image_folder, image_folder.with_name("damaged")))
    (damaged / "cold" / "00.jpg").write_text("no image")
    pets["datasets"]["damaged"] = {"dataset": str(damaged), "test": "held-out"}
    return pets


def test_a_data_set_or_backbone_that_is_not_there_costs_its_own_cells(
    with_damaged: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    with_damaged["backbones"].append(str(tmp_path / "run"))
    ahead = asked(with_damaged, tmp_path, "--dry-run")
    assert not (tmp_path / "out").exists()
    assert [cell["state"] for cell in ahead["cells"]] == ["missing"] * 4 + ["absent"] * 12
    assert ahead["untimed"] == 12
    data, backbone = sorted(ahead["absent"], reverse=True)
    assert data.startswith("data set damaged: 1 of 20 files cannot be read as images: cold/00.jpg")
    assert backbone.endswith(f"/run is an unfinished run. Finish it first: hyperrule finetune --resume {tmp_path}/run")

    code, out, err, lines = measured(with_damaged, tmp_path, monkeypatch)
    assert (code, [line.dataset for line in lines]) == (1, ["pets"] * 4)
    assert f"missing  8 cells: {data}" in out
    assert f"missing  4 cells: {backbone}" in out
    assert "8 cells left out: data set damaged" in err


def test_nothing_that_is_there_is_an_error(with_damaged: dict[str, Any], tmp_path: Path) -> None:
    del with_damaged["datasets"]["pets"]
    assert "no cell can be measured. data set damaged: 1 of 20 files" in refused(with_damaged, tmp_path)


def test_a_mistake_beside_what_is_not_there_is_still_refused(with_damaged: dict[str, Any], tmp_path: Path) -> None:
    with_damaged["datasets"]["pets"].pop("test")
    assert "datasets.pets has no test split" in refused(with_damaged, tmp_path)


def test_a_process_that_dies_is_tried_once_more(
    pets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err, lines = measured(pets, tmp_path, monkeypatch, 137)
    assert (code, [line.status for line in lines]) == (0, ["done"] * 4)
    assert "its process was killed by signal 9; it is tried once more at the end; 4 cells left" in err


def test_a_process_that_dies_twice_fails_its_cells_alone(
    pets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets["backbones"].append("random-r26x0.5")
    code, _, _, lines = measured(pets, tmp_path, monkeypatch, 137, 0, 1)
    assert (code, [line.backbone for line in lines if line.status == "done"]) == (1, ["random-r26x0.5"] * 4)
    errors = {line.error for line in lines if line.status == "failed"}
    assert errors == {"its process ended with 1, twice: see its output above, then --retry-failed"}


def test_a_process_that_somebody_stops_has_not_failed(
    pets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _, lines = measured(pets, tmp_path, monkeypatch, 143)
    assert (code, lines) == (1, [])
    assert "missing  4 cells: its process was stopped by SIGTERM" in out
    assert measured(pets, tmp_path, monkeypatch)[0] == 0


def test_processes_end_with_the_signal_that_ended_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "command", dying)
    ended: list[int] = []
    assignments = [
        Assignment(task=Task(dataset="d", backbone="b", method="head", shots=1, seed=number), planned=tmp_path)
        for number in (signal.SIGKILL, signal.SIGTERM)
    ]
    local.run_locally(tmp_path, assignments, 1, lambda _, code: ended.append(code))
    assert ended == [137, 143]


def test_a_ledger_is_gone_on_with_or_refused(
    pets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(pets, tmp_path, monkeypatch)
    ledger = tmp_path / "out" / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-40])
    assert asked(pets, tmp_path, "--status")["missing"] == 1
    code, _, err, lines = measured(pets, tmp_path, monkeypatch)
    assert (code, len(lines)) == (0, 4)
    assert "1 of 4 cells to measure" in err
    ledger.write_bytes(whole.replace(b'"format":1', b'"format":7'))
    for options in ([], ["--dry-run"], ["--status"]):
        command = ["bench", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out"), *options]
        result = CliRunner().invoke(main, command)
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
        assert "has format 7; this version reads 1" in result.stderr


def test_status_knows_what_the_grid_asks_for(
    pets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(pets, tmp_path, monkeypatch)

    def counts(**changes: Any) -> tuple[int, int]:
        found = asked({**pets, **changes}, tmp_path, "--status")
        return found["done"], found["missing"]

    elsewhere = {"pets": {**pets["datasets"]["pets"], "dataset": "/elsewhere"}}
    assert counts() == counts(datasets=elsewhere) == (4, 0)
    written = tmp_path / "so-far.csv"
    asked({**pets, "datasets": elsewhere}, tmp_path, "--status", "--write", str(written))
    assert "\npets,bit-r26x0.5,probe,4,," in written.read_text()
    assert counts(shots=[1, 2, 4]) == (4, 2)
    flipped = {"pets": {**pets["datasets"]["pets"], "split_seed": 1}}
    for change in ({"crop": 48}, {"methods": {"probe": {"l2": 64}}}, {"datasets": flipped}):
        assert counts(**change) == (0, 4)
    result = CliRunner().invoke(
        main, ["bench", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out"), "--status"]
    )
    assert "if data and weights have not changed" in result.stdout


def sleeping(folder: Path, assignment: Assignment) -> list[str]:
    return [sys.executable, "-c", "import time; time.sleep(60)"]


def dying(folder: Path, assignment: Assignment) -> list[str]:
    return [sys.executable, "-c", f"import os; os.kill(os.getpid(), {assignment.task.seed})"]


def test_a_signal_stops_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "command", sleeping)
    ended: list[int] = []
    tasks = [Task(dataset="d", backbone="b", method="head", shots=1, seed=seed) for seed in range(3)]
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assignments = [Assignment(task=task, planned=tmp_path) for task in tasks]
    with pytest.raises(Interrupted) as stopped:
        local.run_locally(tmp_path, assignments, 2, lambda _, code: ended.append(code))
    assert (stopped.value.exit_code, ended) == (143, [])


def test_status_needs_neither_data_nor_tensorflow(pets: dict[str, Any], tmp_path: Path) -> None:
    _, out = prepared(pets, tmp_path / "out")
    every = planned(pets)
    pets["datasets"]["pets"]["dataset"] = "/nowhere"
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(pets))
    done, failed, *_ = every
    out.add(done.done(0.5, 4, 2, 1.0, 64))
    out.add(failed.failed("why"))
    script = (
        "import sys; from hyperrule.api import bench_status\n"
        f"print(bench_status({str(file)!r}, out={str(out.path)!r}).model_dump_json())\n"
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    )
    found = json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert found == {
        "cells": 4,
        "done": 1,
        "failed": 1,
        "missing": 2,
        "at_work": [],
        "errors": ["pets, bit-r26x0.5, probe: why"],
    }


def test_the_grid_that_is_kept_is_the_grid(pets: dict[str, Any], tmp_path: Path) -> None:
    pets["methods"] |= {"finetune-probe": {"steps": 2, **TRAINING}, "head": None}
    grid, folder = prepared(pets, tmp_path / "bench")
    assert read_grid(str(folder.grid_file)).cells() == grid.cells()
    kept = read_grid(str(folder.grid_file))
    keys = [one.key for one in planned_cells(grid, grid.cells(), QUIET).planned]
    assert [one.key for one in planned_cells(kept, kept.cells(), QUIET).planned] == keys


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for another process, as long as that runs."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_two_runs_on_one_folder_share_it_even_if_one_is_killed(pets: dict[str, Any], tmp_path: Path) -> None:
    """Features are held back until both are in the middle of cells, and one is killed."""
    pets |= {"backbones": ["bit-r26x0.5", "random-r26x0.5"], "shots": [1, 8]}
    file, out = tmp_path / "grid.yaml", BenchFolder(tmp_path / "out")
    file.write_text(yaml.safe_dump(pets))
    infos = {one.plan.backbone.name: one.plan.backbone for one in planned(pets)}
    source = planned(pets)[0].source
    with ExitStack() as held:
        for info in infos.values():
            for images in (source.examples("train"), source.examples("test")):
                features = features_file(info, images, 32)
                held.enter_context(file_lock(features.with_suffix(".lock")))
                np.save(features.with_suffix(".held"), np.random.default_rng(0).random((len(images), 8), np.float32))
                held.callback(os.rename, features.with_suffix(".held.npy"), features)
        killed, other = (start("bench", str(file), "--out", str(out.path), "--jobs", jobs) for jobs in "12")
        until(lambda: len(at_work(out.claims)) == 3, other)
        killed.kill()
        killed.communicate()
        until(lambda: len(at_work(out.claims)) == 2, other)
    _, err = other.communicate()
    assert other.returncode == 0, err
    lines = [json.loads(line) for line in out.ledger_file.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 8
    assert {line["status"] for line in lines} == {"done"}
    assert len(list(out.path.glob(".planned-*"))) == 1  # of the one that was killed
    hyperrule.bench(file, out=out.path, quiet=True)
    assert not list(out.path.glob(".planned-*"))


def test_features_are_named_by_known_hashes_without_reading_an_image(image_folder: Path, tmp_path: Path) -> None:
    images = open_source(str(image_folder), reporter=QUIET).examples("train")
    info = describe_backbone("bit-r26x0.5")
    unknown = Examples(images.ids, images.labels, images.contents)
    named = features_file(info, unknown, 32)
    assert named != features_file(info, unknown.take(np.arange(len(images))[::-1]), 32)
    for file in image_folder.rglob("*.jpg"):
        file.unlink()
    assert features_file(info, images, 32) == named
    with pytest.raises(FileNotFoundError):
        features_file(info, unknown, 32)
