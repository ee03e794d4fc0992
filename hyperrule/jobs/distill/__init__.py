"""Distillation by function matching: teacher, student and the job."""
