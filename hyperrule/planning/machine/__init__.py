"""What a machine offers: cores, memory, GPUs, other workers, and its measured speed."""
