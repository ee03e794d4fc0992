"""Exports a classifier for other runtimes, and checks that it agrees with the evaluation."""
