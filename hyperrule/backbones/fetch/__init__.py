"""Downloading weights: TensorFlow Hub, the public bucket of BiT, and plain HTTP."""
