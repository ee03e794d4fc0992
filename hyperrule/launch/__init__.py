"""One command as many workers: who they are, what holds them, and how they end. No TensorFlow."""
