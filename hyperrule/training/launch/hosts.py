"""Defines the workers of a launch: processes that share this machine, or one process on each host."""

import json
import os
import random
import re
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hyperrule.errors import RecipeError
from hyperrule.planning.machine.machine import this_machine
from hyperrule.support.wording import number

# BatchMode never asks for a password. The timeouts detect a host that is down, or a cut connection, within a minute.
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15"
PORT = 12345
PORTS = range(1024, 65536)
LOCAL_WORKERS = range(2, 65)
# Below the ports that Linux gives to outgoing connections (32768 up), which could take a port in the seconds before
# TensorFlow listens on it.
LOOPBACK_PORTS = range(20000, 32768)
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# Environment variables that are passed on to workers on other hosts.
SENT = re.compile(
    r"HYPERRULE_\w+|TF_\w+|NCCL_\w+|TFHUB_CACHE_DIR|TFDS_DATA_DIR|CUDA_VISIBLE_DEVICES|PYTHONPATH"
    r"|(http|https|ftp|all|no)_proxy|(HTTP|HTTPS|FTP|ALL|NO)_PROXY"
)


@dataclass(frozen=True)
class Worker:
    """Process `index` of the cluster.

    `connect` holds the arguments that run a command line on its host; it is empty for this machine. `environment` is
    added to the environment of the host.
    """

    index: int
    host: str
    connect: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"worker {self.index} on {self.host}"


def local_workers(count: int) -> list[Worker]:
    """Return `count` workers on this machine, on loopback, each with an equal share of its GPUs, or else of its cores.

    Raises RecipeError if the number is not allowed, or if the GPUs cannot be shared equally.
    """
    if count not in LOCAL_WORKERS:
        raise RecipeError(
            f"--local-workers must be from {LOCAL_WORKERS.start} to {LOCAL_WORKERS.stop - 1}. Received: {count}. "
            "For one process, use hyperrule finetune without launch."
        )
    machine = this_machine()
    shares = list(_gpu_shares(count, len(machine.gpus)))
    threads = str(max(1, machine.cores // count))
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [
        Worker(
            index,
            "this machine",
            (),
            {
                "TF_CONFIG": tf_config(addresses, index),
                "TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", threads),
                "TF_NUM_INTEROP_THREADS": os.environ.get("TF_NUM_INTEROP_THREADS", threads),
                **({"CUDA_VISIBLE_DEVICES": ",".join(share)} if share else {}),
            },
        )
        for index, share in enumerate(shares)
    ]


def remote_workers(names: str, port: int = PORT, ssh: str = SSH) -> list[Worker]:
    """Return one worker on each host of `names` ("host1,host2") that listens on `port`, started by `ssh HOST COMMAND`.

    A worker on this machine is started directly. Raises RecipeError if the hosts, the port or `ssh` cannot be used.
    """
    hosts = _hosts(names)
    if port not in PORTS:
        raise RecipeError(f"--port must be from {PORTS.start} to {PORTS.stop - 1}. Received: {port}")
    connect = _program(ssh)
    addresses = [f"{host}:{port}" for host in hosts]
    sent = {name: value for name, value in os.environ.items() if SENT.fullmatch(name)}
    return [
        Worker(
            index,
            host,
            () if host in _own_names() else (*connect, host),
            {**sent, "TF_CONFIG": tf_config(addresses, index)},
        )
        for index, host in enumerate(hosts)
    ]


def tf_config(addresses: list[str], index: int) -> str:
    """Return the value of TF_CONFIG for worker `index` of the workers at `addresses` ("host:port")."""
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of the loopback interface, sampled from those that are free now."""
    candidates = iter(random.SystemRandom().sample(LOOPBACK_PORTS, len(LOOPBACK_PORTS)))
    return [next(filter(_is_free, candidates)) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _gpu_shares(count: int, gpus: int) -> Iterator[list[str]]:
    """Yield the GPUs of each worker by their names in CUDA_VISIBLE_DEVICES; empty lists without GPUs."""
    if gpus % count:
        allowed = [str(share) for share in range(2, gpus + 1) if gpus % share == 0]
        raise RecipeError(
            f"--local-workers {count} cannot share {number(gpus, 'GPU')} equally. "
            + (f"Allowed: {', '.join(allowed)}. " if allowed else "")
            + "One process takes all GPUs by itself: hyperrule finetune; for the CPU, set CUDA_VISIBLE_DEVICES=-1."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(gpus)] if visible is None else visible.split(",")
    each = gpus // count
    for index in range(count):
        yield names[index * each : (index + 1) * each]


def _hosts(names: str) -> list[str]:
    hosts = [name.strip() for name in names.split(",")]
    allowed = f"--workers takes two or more names of hosts, such as host1,host2. Received: {names!r}."
    for host in hosts:
        if not HOST.fullmatch(host):
            raise RecipeError(f"{allowed} {host!r} is not a host name; put users and ports into ~/.ssh/config.")
        if host == "localhost" or host.startswith("127."):
            raise RecipeError(
                f"{allowed} {host} means another machine on each host: use a name that all hosts resolve."
            )
        if hosts.count(host) > 1:
            raise RecipeError(f"{allowed} {host} is listed {hosts.count(host)} times: one worker takes all its GPUs.")
    if len(hosts) < 2:
        raise RecipeError(f"{allowed} For one host, use hyperrule finetune there, or --local-workers.")
    return hosts


def _program(ssh: str) -> tuple[str, ...]:
    try:
        arguments = tuple(shlex.split(ssh))
    except ValueError as error:
        raise RecipeError(f"--ssh is not a command line: {error}. Received: {ssh!r}") from None
    if not arguments or shutil.which(arguments[0]) is None:
        raise RecipeError(f"--ssh: there is no program {arguments[0] if arguments else ''!r}. Default: {SSH!r}")
    return arguments


def _own_names() -> set[str]:
    name = socket.gethostname()
    return {name, name.split(".")[0]}
