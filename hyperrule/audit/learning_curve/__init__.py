"""`hyperrule learning-curve`: what more labelled images would bring."""
