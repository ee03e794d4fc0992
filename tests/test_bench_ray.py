"""`hyperrule bench --engine ray`: a cluster of two nodes of which one dies, and refused requests."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner
from command_line import start

from hyperrule.benchmark.engines import ray as engine
from hyperrule.benchmark.engines.tasks import Assignment, Task
from hyperrule.benchmark.ledger import read_ledger
from hyperrule.cli import main
from hyperrule.errors import Interrupted, UserError

GRID = {
    "backbones": ["random-r26x0.5"],
    "shots": [1, 4],
    "seeds": 2,
    "crop": 32,
    "methods": {
        "probe": {"l2": [64]},
        "head": {"shots": 4, "seeds": 1, "steps": 2, "batch": 8, "resize": 40, "precision": "float32"},
    },
}
CELLS, TASKS = 5, 2
NODE = {"num_cpus": 1, "object_store_memory": engine.OBJECT_STORE, "include_dashboard": False}
SOON = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each; this machine's own Ray is neither used nor changed."""
    pytest.importorskip("ray", reason="needs ray: pip install 'hyperrule[ray]'")
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="ray-") as folder:  # short: sockets are there
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        # Ignored, as by what a shell starts in the background: cancelling must work all the same.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            two = Cluster(initialize_head=True, head_node_args={**NODE, "_system_config": SOON})
            two.add_node(**NODE)
        finally:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield two
        finally:
            two.shutdown()
            for process in psutil.process_iter(["cmdline"]):
                assert folder not in " ".join(process.info["cmdline"] or ())


@pytest.fixture
def grid_file(image_folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"datasets": {"pets": {"dataset": str(image_folder), "test": "held-out"}}, **GRID}))
    return file


def holders(node: Any, claims: Path) -> list[int]:
    """Processes on a node that are at work on a cell."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    found = []
    for process in raylet.children(recursive=True):
        try:
            if any(Path(file.path).parent == claims for file in process.open_files()):
                found.append(process.pid)
        except psutil.Error:  # it has ended
            continue
    return found


def test_a_node_that_dies_loses_nothing(cluster: Any, grid_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench"
    bench = start("bench", str(grid_file), "--out", str(out), "--engine", "ray", "--address", cluster.address)
    (node,) = cluster.worker_nodes
    while bench.poll() is None and not (at_work := holders(node, out / "claims")):
        time.sleep(0.1)
    assert bench.poll() is None, bench.communicate()
    cluster.remove_node(node, allow_graceful=False)
    said, progress = bench.communicate()
    assert bench.returncode == 0, progress
    assert len((out / "ledger.jsonl").read_text().splitlines()) == CELLS
    lines = read_ledger(out / "ledger.jsonl")
    assert (len(lines), {line.status for line in lines}) == (CELLS, {"done"})
    assert f"{CELLS} of {CELLS} cells to measure" in progress
    assert progress.count("cells left") + progress.count("cell left") == TASKS
    assert str(out / "ledger.jsonl") in said
    assert not any(map(psutil.pid_exists, at_work))
    assert not list(out.glob(".planned-*"))


@pytest.mark.parametrize("forgotten", [0, 3])
def test_a_signal_stops_all_tasks_even_if_ray_forgets_to_cancel(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: int
) -> None:
    import ray

    cancel, asked = ray.cancel, []

    def forgetful(task: Any) -> None:
        asked.append(task)
        if len(asked) > forgotten:
            cancel(task)

    monkeypatch.setattr(ray, "cancel", forgetful)
    monkeypatch.setattr(engine, "HEEDED", 10.0)
    sleep = f"import os, pathlib, time; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); time.sleep(600)"
    monkeypatch.setattr(engine, "command", lambda folder, assignment: [sys.executable, "-c", sleep])
    tasks = [Task(dataset="d", backbone="b", method="head", shots=1, seed=seed) for seed in range(3)]
    ended: list[int] = []

    def terminate() -> None:
        while not os.listdir(tmp_path):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    assignments = [Assignment(task=task, planned=tmp_path) for task in tasks]
    with engine.connected(cluster.address), pytest.raises(Interrupted, match="the same command resumes") as stopped:
        engine.run_on_ray(tmp_path, assignments, 1, lambda _, code: ended.append(code))
    assert (stopped.value.exit_code, ended) == (143, [])
    assert not any(psutil.pid_exists(int(name)) for name in os.listdir(tmp_path))


def test_a_port_that_says_nothing_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "DRIVER", "import time; time.sleep(600)")
    monkeypatch.setattr(engine, "ANSWERS", 1.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(UserError, match="no answer in 1 s"):
            engine.check_cluster("127.0.0.1:{1}".format(*listener.getsockname()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "rey"], "engine must be local or ray. Received: 'rey'"),
        (["--address", "auto"], "--address is that of a Ray cluster: set --engine ray, too."),
        (["--engine", "ray", "--address", "here"], "--address takes auto or HOST:PORT, such as 10.0.0.1:6379."),
        (["--engine", "ray", "--address", "ray://here:10001"], "--address takes auto or HOST:PORT"),
        (
            ["--engine", "ray", "--address", "127.0.0.1:1"],
            "no Ray cluster at --address 127.0.0.1:1: Connection refused",
        ),
        (["--engine", "ray"], "--engine ray needs ray. Install: pip install 'hyperrule[ray]'"),
    ],
)
def test_a_mistake_is_one_line(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    if "--address" in arguments and "ray" in arguments:
        pytest.importorskip("ray", reason="needs ray: pip install 'hyperrule[ray]'")
    elif "ray" in arguments:
        monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(main, ["bench", str(grid_file), "--out", str(tmp_path / "out"), *arguments])
    assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (2, 1, ""), result.output
    assert said in result.stderr
    assert not (tmp_path / "out").exists()
