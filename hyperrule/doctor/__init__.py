"""Is this machine set up? What it has, what `auto` would choose on it, and what is missing for its GPUs."""
