"""The workloads: one folder each, with the facts and data in ``data.py`` and one model per framework beside it."""
