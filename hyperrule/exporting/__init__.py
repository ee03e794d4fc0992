"""What a run leaves for deployment, and the proof that it agrees with the evaluation."""
