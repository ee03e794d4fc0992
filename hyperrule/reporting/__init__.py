"""What remains of a run for people: a web page and a model card, from the run folder alone. No TensorFlow."""
