"""Virtual devices: the CPU as four, for every test module that imports this (at collection, before any tensor)."""

from functools import cache

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@cache
def strategy_of(devices: int) -> tf.distribute.Strategy:
    """The default strategy, or virtual CPU devices mirrored."""
    if devices == 1:
        return tf.distribute.get_strategy()
    # Summed on one device: the collective operations of two strategies in one process would be mixed up.
    summed = None if devices == 2 else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)], summed)
