"""SavedModels from TF Hub and elsewhere: how they are read, recognised and run."""
