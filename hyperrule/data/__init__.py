"""Labelled images of any source: their properties, their splits, and batches of them for the network."""
