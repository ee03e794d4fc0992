"""Classifiers that exist already, without training: their predictions, and their accuracy on labelled images."""
