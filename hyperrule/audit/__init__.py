"""Is this data set fit to train on? Its faults, its wrong labels, and what more images would bring."""
