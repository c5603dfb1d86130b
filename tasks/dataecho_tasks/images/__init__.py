"""Image classification from any source; by default scenes that are made on the spot."""
