"""One file that carries images, models and the tool to a host without a network."""
