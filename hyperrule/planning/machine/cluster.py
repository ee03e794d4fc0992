"""Reads the processes that train together from the environment: TF_CONFIG or SLURM; no TensorFlow."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache

from hyperrule.errors import RecipeError

CONFIG = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
SLURM_PORT = 20000  # the first of SLURM_PORTS ports: jobs and tasks on one node need different ones
SLURM_PORTS = 12000


@dataclass(frozen=True)
class Cluster:
    """This process is worker `index` of the workers at `addresses` (host:port); without addresses, the only one.

    Only worker 0, the chief, writes files and prints.
    """

    index: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return max(1, len(self.addresses))

    @property
    def chief(self) -> bool:
        return self.index == 0

    @property
    def on_this_host(self) -> int:
        """How many workers share this machine."""
        hosts = [address.rpartition(":")[0] for address in self.addresses]
        return hosts.count(hosts[self.index]) if hosts else 1


def this_cluster() -> Cluster:
    """Return the cluster of TF_CONFIG, else of SLURM's variables of a step with several tasks, else of one process.

    Raises RecipeError if TF_CONFIG is not a cluster of workers (synchronous training has no parameter servers or
    evaluators), or if SLURM's list of nodes cannot be read.
    """
    if text := os.environ.get(CONFIG):
        return _of_config(text)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return _of_slurm()
    return Cluster()


def _of_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        addresses, index = tuple(jobs["worker"]), int(task["index"])
        if set(jobs) != {"worker"} or task["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise RecipeError(
            f"{CONFIG} must list workers only, with this process as one of them, as in '{EXAMPLE}'. "
            f"Received: {text!r}. To train in one process, unset {CONFIG}."
        ) from None
    return Cluster(index, addresses)


def _of_slurm() -> Cluster:
    """Return the cluster with workers in the order of SLURM's tasks.

    TensorFlow's SlurmClusterResolver is not used: it sorts node names as text (n10 before n9), but SLURM's first task
    is on the first node by number; it needs nvidia-smi, and uses one port for all jobs of a node.
    """
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        hosts = _hosts(nodes)
        tasks_per_node = list(zip(hosts, _tasks_per_node(), strict=True))
    except (OSError, subprocess.CalledProcessError, KeyError, ValueError):
        raise RecipeError(
            f"scontrol cannot list the hosts of {nodes!r}. Run where SLURM's commands are installed, or set {CONFIG}, "
            f"as in '{EXAMPLE}'."
        ) from None
    job = int(os.environ.get("SLURM_JOB_ID", "0")) * 16
    addresses = [
        f"{host}:{SLURM_PORT + (job + task) % SLURM_PORTS}" for host, tasks in tasks_per_node for task in range(tasks)
    ]
    return Cluster(int(os.environ["SLURM_PROCID"]), tuple(addresses))


@cache
def _hosts(nodes: str) -> list[str]:
    """Return the hosts of a list that SLURM abbreviates, such as n[9-10]."""
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return shown.stdout.split()


def _tasks_per_node() -> list[int]:
    """Return the number of tasks on each node. SLURM writes 2, 2, 1 as "2(x2),1"."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ["SLURM_STEP_TASKS_PER_NODE"])
    return [int(tasks) for tasks, nodes in parts for _ in range(int(nodes or 1))]
