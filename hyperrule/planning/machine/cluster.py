"""The processes that train together, as the environment tells of them; no TensorFlow."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache

from hyperrule.errors import RecipeError

CONFIG = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
SLURM_PORT = 20000  # and up: jobs and tasks that share a node must not share a port
SLURM_PORTS = 12000


@dataclass(frozen=True)
class Cluster:
    """This process is worker `index` of those at the `addresses` (host:port); worker 0, the chief, alone writes and
    speaks. No addresses: one process."""

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
    """From TF_CONFIG, or else from SLURM's variables of a step of several tasks; one process without either.

    Raises RecipeError for a TF_CONFIG that is no cluster of workers (parameter servers and evaluators have no place
    in synchronous training), and where SLURM's list of nodes cannot be read.
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
            f"{CONFIG} must name workers only, and this process as one of them, as in '{EXAMPLE}'. Received: {text!r}. "
            "For one process, unset it."
        ) from None
    return Cluster(index, addresses)


def _of_slurm() -> Cluster:
    """Tasks in SLURM's order. Not TensorFlow's SlurmClusterResolver: it orders nodes by name as text (n10 before n9),
    where SLURM's first task is on the first by number, wants nvidia-smi, and has one port for all jobs of a node."""
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        hosts = _hosts(nodes)
        tasks_per_node = list(zip(hosts, _tasks_per_node(), strict=True))
    except (OSError, subprocess.CalledProcessError, KeyError, ValueError):
        raise RecipeError(
            f"scontrol cannot tell the hosts of {nodes!r}. Run where SLURM's commands are, or set {CONFIG}, "
            f"as in '{EXAMPLE}'."
        ) from None
    job = int(os.environ.get("SLURM_JOB_ID", "0")) * 16
    addresses = [
        f"{host}:{SLURM_PORT + (job + task) % SLURM_PORTS}" for host, tasks in tasks_per_node for task in range(tasks)
    ]
    return Cluster(int(os.environ["SLURM_PROCID"]), tuple(addresses))


@cache
def _hosts(nodes: str) -> list[str]:
    """What SLURM abbreviates as n[9-10]."""
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return shown.stdout.split()


def _tasks_per_node() -> list[int]:
    """SLURM writes 2,2,1 as "2(x2),1"."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ["SLURM_STEP_TASKS_PER_NODE"])
    return [int(tasks) for tasks, nodes in parts for _ in range(int(nodes or 1))]
