"""Exact evaluation of a network: features, the closed-form probe, metrics, calibration and intervals."""
