"""Audits of a data set: its defects, its probably wrong labels, and the benefit of more images."""
