"""What all web pages share: one file each, no scripts, nothing from elsewhere; light, dark, on a phone and in print."""
