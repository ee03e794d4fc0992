"""Carrying out a plan: fine-tuning or distillation, from the first batch to the report."""
