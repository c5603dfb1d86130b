"""Searches by Optuna from Hydra's multirun: cells, repeats, a pool of processes, and what survives a kill.

`hydra_plugins/dataecho_sweeper` is only what Hydra scans; everything is here. `docs/search.md` is about using it.
"""
