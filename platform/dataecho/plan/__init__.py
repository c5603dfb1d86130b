"""Layer 0: which example is used when, and how often. Ids only; numpy and the standard library only."""
