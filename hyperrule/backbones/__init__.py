"""Backbones, networks without a head: which are known, where their weights come from, and how they are built."""
