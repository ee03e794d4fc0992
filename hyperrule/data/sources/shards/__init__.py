"""Images that lie one after another in large files."""
