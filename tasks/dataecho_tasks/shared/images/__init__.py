"""Images: their files, decoding, crops and drawings, and the layers of residual networks."""
