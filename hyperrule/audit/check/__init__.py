"""`hyperrule check`: find defects of a data set before training."""
