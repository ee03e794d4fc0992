"""EfficientNet-Lite0: converts the weights in its Python package to a SavedModel."""
