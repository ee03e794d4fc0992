"""Several processes that train together: the same run as with one, also if a worker is killed or stopped."""

import json
import os
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from command_line import SMALL, flags, start
from PIL import Image

import hyperrule
from hyperrule.errors import RecipeError
from hyperrule.planning.machine.cluster import Cluster, this_cluster
from hyperrule.run_folder import RunFolder
from hyperrule.training import workers as collectives

MOMENTS = ("training", "evaluation", "export")
# Each costs a minute; HYPERRULE_TEST_KILLS=3 goes through all.
KILLED_AT = MOMENTS if int(os.environ.get("HYPERRULE_TEST_KILLS", "1")) >= len(MOMENTS) else MOMENTS[:1]
PATIENCE = 60.0  # seconds in which a worker must notice that another is gone
OPTIONS = {**SMALL, "eval_every": 6, "micro_batch": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (folder / name).mkdir()
        for index in range(10):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name / f"{index}.png")
    return folder


class Workers:
    """Two processes of `hyperrule finetune` on loopback."""

    def __init__(self, *arguments: str, export: bool = True, cwd: Path | None = None) -> None:
        with ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(2)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
        tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
        self.processes = [
            start("finetune", *arguments, export=export, cwd=cwd, TF_CONFIG=json.dumps(task)) for task in tasks
        ]

    def ended(self) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of each."""
        try:
            outputs = [process.communicate(timeout=300) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [(process.returncode, *output) for process, output in zip(self.processes, outputs, strict=True)]


def reached(moment: str, run: RunFolder) -> bool:
    match moment:
        case "training":
            return any(line["kind"] == "step" for line in run.read_metrics())
        case "evaluation":
            return any(line["step"] == OPTIONS["steps"] for line in run.read_metrics())
        case _:
            return run.predictions_file.exists()


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """What two workers make of the images undisturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    (chief, stdout, _), (other, nothing, silence) = Workers(
        "--dataset", str(images), "--out", str(out), *flags(OPTIONS)
    ).ended()
    assert (chief, other) == (0, 0), silence
    assert "accuracy" in stdout
    assert (nothing, silence) == ("", "")  # one process speaks for both
    return RunFolder(out)


def weights(run: RunFolder) -> dict[str, np.ndarray]:
    with np.load(run.weights_file) as arrays:
        return dict(arrays)


def test_whole_numbers_arrive_exactly() -> None:
    """Two workers as threads, whose collectives are sums, in float32 as they are: it has no 2^24 + 1."""
    barrier, parts = threading.Barrier(2, timeout=PATIENCE), {}

    class InThread(collectives.Workers):
        def _summed(self, part: np.ndarray) -> np.ndarray:
            parts[self.index] = part
            barrier.wait()
            total = parts[0] + parts[1]
            barrier.wait()
            return total

    counters = {"updates": np.array([2**24 + 1, -(2**53) - 1]), "weights": np.array([0.5, 2**-140], np.float32)}

    def say(index: int) -> tuple[object, ...]:
        workers = InThread(tf.distribute.get_strategy(), Cluster(index, ("a:1", "b:1")))
        mine = counters if workers.chief else {name: np.ones_like(array) for name, array in counters.items()}
        arrays = workers.broadcast_arrays(mine)
        return (
            int(workers.broadcast(2**24 + 1 + index)),
            int(workers.broadcast(2**24 + index, source=1)),
            bool(workers.broadcast(index == 0)),
            {name: (array.dtype.name, array.tolist()) for name, array in arrays.items()},
            workers.texts(f"worker {index} \u00fc"),
        )

    expected = {name: (array.dtype.name, array.tolist()) for name, array in counters.items()}
    with ThreadPoolExecutor(2) as pool:
        for heard in pool.map(say, range(2)):
            assert heard == (2**24 + 1, 2**24 + 1, True, expected, ["worker 0 \u00fc", "worker 1 \u00fc"])
    assert int(collectives.Workers(tf.distribute.get_strategy(), Cluster()).broadcast(2**24 + 1)) == 2**24 + 1


def test_two_workers_train_and_evaluate_like_one_process(whole: RunFolder, images: Path, tmp_path: Path) -> None:
    alone = hyperrule.finetune(dataset=str(images), out=tmp_path / "alone", quiet=True, **{**OPTIONS, "micro_batch": 4})
    for ours, theirs in zip(whole.read_metrics(), alone.run.read_metrics(), strict=True):
        assert ours["kind"] == theirs["kind"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    both, one = (json.loads(run.eval_file.read_text()) for run in (whole, alone.run))
    assert both["examples"] == one["examples"] == 4
    assert both["confusion"] == one["confusion"]


@pytest.mark.parametrize("moment", KILLED_AT)
def test_worker_killed_ends_the_others_and_all_go_on_as_if_nothing_had_happened(
    moment: str, whole: RunFolder, images: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    command = ("--dataset", str(images), "--out", str(run.path), "--restartable", *flags(OPTIONS))
    workers = Workers(*command, export=moment == "export")
    while not reached(moment, run):
        assert all(process.poll() is None for process in workers.processes), workers.ended()
        time.sleep(0.01)
    victim = random.Random(moment).randrange(2)
    workers.processes[victim].kill()
    start = time.monotonic()
    endings = workers.ended()
    assert time.monotonic() - start < PATIENCE
    assert endings[victim][0] == -signal.SIGKILL
    code, _, stderr = endings[1 - victim]
    if code != 0:  # but a worker may have been all done
        assert code == 1
        assert "another worker is gone" in stderr.splitlines()[-1]
        assert "Traceback" not in stderr
    again = Workers(*command, export=moment == "export").ended()
    assert [code for code, _, _ in again] == [0, 0], again
    expected = weights(whole)
    assert all(np.array_equal(array, expected[name]) for name, array in weights(run).items())
    assert [line["step"] for line in run.read_metrics()] == [line["step"] for line in whole.read_metrics()]


def test_one_worker_told_to_stop_stops_both_after_a_checkpoint(images: Path, tmp_path: Path) -> None:
    """Both know which folder the chief has found free."""
    (tmp_path / "runs" / images.name).mkdir(parents=True)
    run = RunFolder(tmp_path / "runs" / f"{images.name}-2")
    options = {**OPTIONS, "steps": 400, "checkpoint_every": 1000}
    workers = Workers("--dataset", str(images), *flags(options), export=False, cwd=tmp_path)
    while not reached("training", run):
        assert all(process.poll() is None for process in workers.processes), workers.ended()
        time.sleep(0.01)
    workers.processes[1].send_signal(signal.SIGTERM)
    endings = workers.ended()
    assert [code for code, _, _ in endings] == [143, 143], endings
    assert all("stopped by SIGTERM" in stderr and "Traceback" not in stderr for _, _, stderr in endings)
    assert all(stderr.endswith(f"--resume runs/{images.name}-2\n") for _, _, stderr in endings)
    assert list(run.checkpoints.glob("*.npz"))


@pytest.mark.parametrize(
    "config",
    [
        "no json",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
    ],
)
def test_cluster_that_is_none_is_refused(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(RecipeError, match="TF_CONFIG must list workers only"):
        this_cluster()


def test_slurm_tasks_are_workers_in_the_order_of_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostnames n[9-10,12]" ] && printf "n9\\nn10\\nn12\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {
        "SLURM_PROCID": "3",
        "SLURM_STEP_NUM_TASKS": "5",
        "SLURM_STEP_NODELIST": "n[9-10,12]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
        "SLURM_JOB_ID": "1234567",
    }.items():
        monkeypatch.setenv(name, value)
    cluster = this_cluster()
    assert cluster.index == 3
    assert [address.split(":")[0] for address in cluster.addresses] == ["n9", "n9", "n10", "n10", "n12"]
    assert len(set(cluster.addresses)) == 5
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert this_cluster() == Cluster()
