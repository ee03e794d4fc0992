"""The files that docs/machines.md offers for copying, run as far as possible without SLURM and Kubernetes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import yaml
from click.testing import CliRunner

from hyperrule.cli import main
from hyperrule.planning.machine.cluster import this_cluster

DOCS = Path(__file__).parents[1] / "docs"
SBATCH = DOCS / "slurm.sbatch"

# Each writes down how it was called, and what SLURM or the pod told it.
CALLED = """#!{python}
import json, os, sys
from pathlib import Path
name = os.environ.get("SLURM_PROCID", os.environ.get("JOB_COMPLETION_INDEX", "once"))
Path({name!r} + "-" + name).write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
sys.exit({code})
"""
# srun as far as TensorFlow looks at it: a process a task, in the order of the nodes; the highest exit code.
SRUN = """#!{python}
import os, subprocess, sys
nodes, each = int(os.environ["SLURM_JOB_NUM_NODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
command = sys.argv[1:]
while command[0].startswith("--"):
    del command[0]
step = {{
    "SLURM_STEP_NODELIST": f"gpu[01-{{nodes:02d}}]",
    "SLURM_STEP_NUM_TASKS": str(nodes * each),
    "SLURM_STEP_TASKS_PER_NODE": f"{{each}}(x{{nodes}})",
    "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(int(os.environ["SLURM_GPUS_ON_NODE"])))),
}}
tasks = [
    subprocess.Popen(command, env={{**os.environ, **step, "SLURM_PROCID": str(task)}}) for task in range(nodes * each)
]
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!{python}
import json, sys
from pathlib import Path
if sys.argv[1:] == ["show", "hostnames", "gpu[01-02]"]:
    print("gpu01", "gpu02", sep=chr(10))
else:
    Path("scontrol-once").write_text(json.dumps([sys.argv[1:], dict()]))
"""
JOB = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "3"}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a program of that name on PATH, and its files into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "bin").mkdir()

    def write(name: str, text: str, code: int = 0) -> None:
        path = tmp_path / "bin" / name
        path.write_text(text.format(python=sys.executable, name=name, code=code))
        path.chmod(0o755)

    return write


def called(name: str) -> tuple[list[str], dict[str, str]]:
    arguments, environment = json.loads(Path(name).read_text())
    return arguments, environment


def submit(program: Callable[..., None], code: int = 0, **environment: str) -> int:
    """The batch script as SLURM would run it, with a hyperrule that exits with this code; the script's own code."""
    program("srun", SRUN)
    program("scontrol", SCONTROL)
    program("hyperrule", CALLED, code)
    asked = dict(re.findall(r"^#SBATCH --(\S+?)=(\S+)", SBATCH.read_text(), re.MULTILINE))
    granted = {
        "SLURM_JOB_NUM_NODES": asked["nodes"],
        "SLURM_NTASKS_PER_NODE": asked["ntasks-per-node"],
        "SLURM_GPUS_ON_NODE": asked["gpus-per-node"],
    }
    script = ["bash", str(SBATCH)]
    return subprocess.run(script, env={**os.environ, **JOB, **granted, **environment}, check=False).returncode


@pytest.mark.parametrize("each", [1, 2])
def test_every_task_finds_the_cluster_that_slurm_was_asked_for(program, monkeypatch, each: int) -> None:
    """As the script asks for it, one task a node, and with one task a GPU."""
    assert submit(program, **({} if each == 1 else {"SLURM_NTASKS_PER_NODE": str(each)})) == 0
    clusters = []
    for task in range(2 * each):
        arguments, environment = called(f"hyperrule-{task}")
        assert arguments[0] == "finetune"
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            clusters.append(this_cluster())
    assert [cluster.index for cluster in clusters] == list(range(2 * each))
    (addresses,) = {cluster.addresses for cluster in clusters}
    assert [address.split(":")[0] for address in addresses] == ["gpu01"] * each + ["gpu02"] * each
    assert len(set(addresses)) == 2 * each


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, "0", False), (2, "0", False), (143, "0", True), (1, "19", True), (137, "3", True), (143, "20", False)],
)
def test_slurm_tries_again_where_that_helps(program, code: int, restarts: str, again: bool) -> None:
    assert submit(program, code, SLURM_RESTART_COUNT=restarts) == code
    assert Path("scontrol-once").exists() == again
    if again:
        assert called("scontrol-once")[0] == ["requeue", "17"]


def test_slurm_leaves_time_for_a_checkpoint_and_signals_the_tasks_alone() -> None:
    (seconds,) = re.findall(r"^#SBATCH --signal=TERM@(\d+)", SBATCH.read_text(), re.MULTILINE)
    assert int(seconds) > 30


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all((DOCS / "kubernetes.yaml").read_text())}


@pytest.mark.parametrize("index", [0, 1])
def test_a_pod_tells_tensorflow_the_cluster_and_its_place(program, manifest, monkeypatch, index: int) -> None:
    program("hyperrule", CALLED)
    (container,) = manifest["Job"]["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    command = [*container["command"], *container["args"]]
    pod = {**os.environ, **environment, "JOB_COMPLETION_INDEX": str(index)}
    subprocess.run(command, env=pod, check=True)
    arguments, environment = called(f"hyperrule-{index}")
    assert arguments[0] == "finetune"
    assert "--restartable" in arguments
    monkeypatch.setenv("TF_CONFIG", environment["TF_CONFIG"])
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["flowers-0.flowers:12345", "flowers-1.flowers:12345"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", index)


def test_the_parts_of_the_manifest_fit_together(manifest) -> None:
    service, job = manifest["Service"]["spec"], manifest["Job"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    name = manifest["Service"]["metadata"]["name"]
    assert service["clusterIP"] == "None"
    assert pod["subdomain"] == name
    assert service["selector"] == {"batch.kubernetes.io/job-name": manifest["Job"]["metadata"]["name"]}
    assert str(job["completions"]) == str(job["parallelism"]) == container["env"][0]["value"]
    assert service["ports"][0]["port"] == container["ports"][0]["containerPort"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] > 30


def test_kubernetes_tries_again_where_that_helps(manifest) -> None:
    job = manifest["Job"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # without which there is no podFailurePolicy
    actions = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert actions == {2: "FailJob", 143: "Ignore"}


def test_the_command_that_docs_recommend_is_one_that_finetune_has(manifest) -> None:
    """Every option of `hyperrule finetune` in docs/."""
    known = set(re.findall(r"--[a-z-]+", CliRunner().invoke(main, ["finetune", "--help"]).stdout))
    texts = [file.read_text() for file in sorted(DOCS.glob("*")) if file.stem in ("slurm", "kubernetes", "machines")]
    used = {
        flag
        for text in texts
        for command in re.findall(r"hyperrule finetune (.*)", text)
        for flag in re.findall(r"(?<=\s)--[a-z-]+", f" {command}")
    }
    assert used <= known
