"""Split the CPU into four virtual devices, for test modules that import this (at collection, before any tensor)."""

from functools import cache

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@cache
def strategy_of(devices: int) -> tf.distribute.Strategy:
    """Return the default strategy for one device, else a MirroredStrategy over virtual CPU devices."""
    if devices == 1:
        return tf.distribute.get_strategy()
    # Gradients are summed on one device: collective operations of two strategies in one process would interfere.
    summed = None if devices == 2 else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)], summed)
