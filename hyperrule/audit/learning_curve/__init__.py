"""`hyperrule learning-curve`: the accuracy to expect from more labelled images."""
