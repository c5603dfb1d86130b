"""Layer 3: what a task's data and predictions look like."""
