"""Runs one command as many workers: hosts, processes, and how they end; no TensorFlow."""
