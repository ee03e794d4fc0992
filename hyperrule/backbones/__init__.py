"""Networks without a head: which ones are known, where their weights come from, and how they are built."""
