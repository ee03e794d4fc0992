"""Helpers that know nothing of images: files, locks, machine limits, progress and wording."""
