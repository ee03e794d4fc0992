"""Files, locks, caches, progress and wording: small things that know nothing of images."""
