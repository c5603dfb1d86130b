"""Layer 3: what a person looks at: progress, summary, tables and figures."""
