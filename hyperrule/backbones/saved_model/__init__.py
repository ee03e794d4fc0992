"""Hub SavedModels: reading, recognising and running them."""
