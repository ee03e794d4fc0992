"""Downloads of weights: from TensorFlow Hub, the public BiT bucket, and over HTTP in general."""
