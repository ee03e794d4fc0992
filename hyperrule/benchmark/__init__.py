"""Few-shot benchmarks: grids of data sets, backbones, methods and shots, measured once each."""
