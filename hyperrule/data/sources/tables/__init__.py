"""Tables of paths and labels."""
