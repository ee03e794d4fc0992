"""Using a finished classifier: predictions, and accuracy on labelled images."""
