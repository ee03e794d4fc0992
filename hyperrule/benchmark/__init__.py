"""Few-shot benchmarks: a grid of cells, a ledger of what they gave, and what can be told from it."""
