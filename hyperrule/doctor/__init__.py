"""`hyperrule doctor`: what this machine is, what `auto` would choose on it, and what is missing for its GPUs."""
