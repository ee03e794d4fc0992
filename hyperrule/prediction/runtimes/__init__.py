"""Exports as strangers run them: each module imports one runtime and NumPy, and nothing of hyperrule.

`load(path)` gives a function of images, float32 [N, S, S, 3] in [0, 1], to probabilities, float32 [N, classes];
`class_names(path)` what the export itself calls its classes.
"""
