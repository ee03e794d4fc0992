"""Distillation by function matching: teacher, student, how well they agree, and the job."""
