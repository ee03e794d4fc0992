"""How the cells of a grid are carried out: on this machine or on a Ray cluster, each once."""
