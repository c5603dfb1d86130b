"""Keeps one Optuna study for each cell and repeat, and what became of its trials; imports `samplers` and `space`."""
