"""Exact evaluation, and the closed-form probe."""
