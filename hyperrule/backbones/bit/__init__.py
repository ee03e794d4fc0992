"""The BiT network: ResNet-v2 with group normalisation and weight standardisation, and its checkpoints."""
