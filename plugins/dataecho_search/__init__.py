"""Searches by Optuna from Hydra's multirun. A room imports only rooms above it, which import-linter checks::

    space      overrides -> cells and search spaces
    samplers   a space -> the points of a study
    study      studies, their storage, trials and results
    workers    processes that run trials
    report     progress, tables, figures, MLflow
    sweep      settings, members, the loop: ask, start, tell

`workers` and `report` do not import each other. Hydra finds the plugin in `hydra_plugins/dataecho_sweeper`.
"""
