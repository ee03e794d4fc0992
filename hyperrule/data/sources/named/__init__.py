"""Data sets that are called by name."""
