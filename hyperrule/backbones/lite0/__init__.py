"""EfficientNet-Lite0, from its Python package to a SavedModel."""
