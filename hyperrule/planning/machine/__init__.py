"""What a machine offers: cores, GPUs, container limits, cluster and speed."""
