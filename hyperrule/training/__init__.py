"""The training step and loop under tf.distribute: optimizer, checkpoints and workers."""
