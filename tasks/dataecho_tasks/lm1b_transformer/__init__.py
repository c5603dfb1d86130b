"""A Transformer on the One Billion Word Benchmark, one of the paper's workloads."""
