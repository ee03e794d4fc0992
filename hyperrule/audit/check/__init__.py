"""`hyperrule check`: what is wrong with a data set, before anybody pays for training on it."""
