"""Writing a classifier for other runtimes, and proving that it agrees with the evaluation."""
