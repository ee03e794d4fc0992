"""Report and model card of a finished run, from its folder alone; no TensorFlow."""
