"""From recipe, data, backbone and machine to a frozen plan, every value with its reason; no TensorFlow."""
