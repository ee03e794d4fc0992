"""Devices and determinism: what TensorFlow is told before the first tensor."""

from functools import cache

import tensorflow as tf

from hyperrule.errors import UserError
from hyperrule.planning.machine import Machine


def start(machine: Machine, deterministic: bool = True) -> tf.distribute.Strategy:
    """The strategy for this machine's devices: all GPUs mirrored, or the default for one device.

    On a CPU every operation is made `deterministic`, so that a resumed run is bit-identical; not so for a network
    that draws random numbers of its own, which TensorFlow would then refuse to run. Raises UserError if
    TensorFlow does not see the GPUs that the plan counts on.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) < len(machine.gpus):
        raise UserError(
            f"the plan counts on {len(machine.gpus)} GPUs ({machine.gpus[0].name}), but TensorFlow sees {len(gpus)}. "
            "Install its CUDA libraries with: pip install 'tensorflow[and-cuda]'; "
            "or set CUDA_VISIBLE_DEVICES=-1 for the CPU."
        )
    if not gpus and deterministic:
        tf.config.experimental.enable_op_determinism()
    return _mirrored() if len(gpus) > 1 else tf.distribute.get_strategy()


@cache
def _mirrored() -> tf.distribute.Strategy:
    """All GPUs; one for the whole process, as two would mix up their collective operations."""
    return tf.distribute.MirroredStrategy()
