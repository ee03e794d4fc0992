"""Devices and determinism: what TensorFlow has to know before the first tensor."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from textwrap import shorten

import tensorflow as tf

from hyperrule.errors import RunError, UserError
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.planning.machine.machine import Machine
from hyperrule.support.wording import MIB, listed

PATIENCE = 600.0  # seconds that a worker waits for all others
PATIENCE_VARIABLE = "HYPERRULE_WORKERS_TIMEOUT"


def start(
    machine: Machine,
    cluster: Cluster,
    *,
    deterministic: bool = True,
    memory_limit: int | None = None,
    tpu: bool = False,
) -> tf.distribute.Strategy:
    """Return the strategy for these devices: all workers of the cluster, all GPUs of the machine, or the one device.

    `deterministic` makes every operation on a CPU deterministic, so that a resumed run is bit-identical; False is for
    a network with its own random numbers, which TensorFlow would otherwise refuse to run. `memory_limit`, in bytes,
    bounds TensorFlow's memory on each GPU (a CPU's is set before TensorFlow is imported: see `api`). Raises UserError
    if TensorFlow does not see the GPUs that the plan needs, or has started with other settings. Ends the process if
    the other workers do not connect.
    """
    if tpu:
        return _tpu()
    gpus = _chosen(machine)
    if not gpus and deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        _configure(gpus, memory_limit)
        if cluster.count > 1:
            return _many_workers(cluster)
    except RuntimeError:
        raise UserError(
            "devices, their memory and workers cannot change once TensorFlow has started in a process, as it does to "
            "inspect a module for the first time. Run this again: the result of the inspection is cached."
        ) from None
    match len(gpus):
        case 0:
            return tf.distribute.get_strategy()
        case 1:
            return tf.distribute.OneDeviceStrategy("/gpu:0")  # unlike the default, it prefetches to the device
        case _:
            return _mirrored()


def _configure(gpus: list[tf.config.PhysicalDevice], memory_limit: int | None) -> None:
    """Raises RuntimeError if TensorFlow has started with other settings."""
    if tf.config.get_visible_devices("GPU") != gpus:
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        if memory_limit is not None:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=memory_limit // MIB)
            tf.config.set_logical_device_configuration(gpu, [limit])


def _chosen(machine: Machine) -> list[tf.config.PhysicalDevice]:
    gpus = tf.config.list_physical_devices("GPU")
    if any(gpu.index >= len(gpus) for gpu in machine.gpus):
        raise UserError(
            f"the plan needs {len(machine.gpus)} GPUs ({machine.gpus[0].name}), but TensorFlow sees {len(gpus)}. "
            "'hyperrule doctor' says what is missing; the usual fix is: pip install 'tensorflow[and-cuda]'. "
            "To train on the CPU, add --devices cpu."
        )
    return [gpus[gpu.index] for gpu in machine.gpus]


@cache
def _mirrored() -> tf.distribute.Strategy:
    """Return the strategy for all GPUs: one for the whole process, as two would mix up their collective operations."""
    return tf.distribute.MirroredStrategy()


@cache
def _many_workers(cluster: Cluster) -> tf.distribute.Strategy:
    """Return the strategy for every GPU of every worker, or for their CPUs."""
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}), task_type="worker", task_id=cluster.index
    )
    with _patience(cluster):
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)


@cache
def _tpu() -> tf.distribute.Strategy:
    """Return the strategy for all cores of the TPU that TPU_NAME names, by default this machine's."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = shorten(str(error), 120, placeholder=" ...")
        raise UserError(f"--devices tpu finds no TPU: {reason}. Set TPU_NAME, or use --devices all.") from None
    return tf.distribute.TPUStrategy(resolver)


@contextmanager
def _patience(cluster: Cluster) -> Iterator[None]:
    """End the process if the block takes too long: TensorFlow waits for its peers without end, uninterruptibly."""
    seconds = float(os.environ.get(PATIENCE_VARIABLE, PATIENCE))
    hosts = listed(cluster.addresses)

    def give_up() -> None:
        os.write(
            2, f"hyperrule: not all workers connected within {seconds:.0f} s ({hosts}). Start one on each.\n".encode()
        )
        os._exit(RunError.exit_code)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
