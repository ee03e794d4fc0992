"""Virtual devices: the CPU as two, for every test module that imports this (at collection, before any tensor)."""

from functools import cache

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@cache  # two mirrored strategies in one process would mix up their collective operations
def strategy_of(devices: int) -> tf.distribute.Strategy:
    """The default strategy, or virtual CPU devices mirrored."""
    if devices == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)])
