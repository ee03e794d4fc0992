"""Arrays of images and labels."""
