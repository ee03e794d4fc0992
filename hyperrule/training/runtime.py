"""Devices and determinism: what TensorFlow is told before the first tensor."""

import tensorflow as tf

from hyperrule.planning.machine import Machine


def start(machine: Machine) -> tf.distribute.Strategy:
    """The strategy for this machine's devices: all GPUs mirrored, or the default for one device.

    On a CPU every operation is made deterministic, so that a resumed run is bit-identical.
    """
    if not machine.gpus:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
