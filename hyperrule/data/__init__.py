"""Labelled images, wherever they lie: their facts, their splits, and batches of them for the network."""
