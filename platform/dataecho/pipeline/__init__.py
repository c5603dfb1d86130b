"""Layer 1: from a plan of ids to batches of arrays, in parallel, each upstream result computed once."""
