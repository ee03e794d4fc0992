"""What a recipe asks for, opened: its data set, its pool; and the images that a finished run had."""
