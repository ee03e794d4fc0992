"""One command as many workers: which hosts, which processes, and how they end. No TensorFlow."""
