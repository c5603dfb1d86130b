"""Layer 2: the loop, its clocks, budgets, targets and checkpoints; no framework, no Hydra, no MLflow."""
