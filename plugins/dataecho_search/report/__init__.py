"""Shows a sweep: progress, tables, figures and the runs in MLflow; imports `study`."""
