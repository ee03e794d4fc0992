"""Measures the cells of a grid, each once, on this machine or on a Ray cluster."""
