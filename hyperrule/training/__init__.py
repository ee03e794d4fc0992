"""The training step and loop, under tf.distribute."""
