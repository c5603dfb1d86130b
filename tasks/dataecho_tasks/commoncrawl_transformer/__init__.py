"""A Transformer on Common Crawl's text, one of the paper's workloads."""
