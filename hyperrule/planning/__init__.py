"""From recipe, data, backbone and machine to the plan; no TensorFlow."""
