"""Searches by Optuna from Hydra's multirun: cells, repeats, a pool of workers, and continuation after a kill.

`hydra_plugins/dataecho_sweeper` is the part that Hydra finds. Data flows one way, and import-linter checks it::

    space      overrides -> cells and search spaces
    samplers   a space -> the points of a study
    study      studies, their storage, trials and results
    workers    processes that run trials
    report     progress, tables, figures, MLflow
    sweep      settings, members, the loop: ask, start, tell

A room imports only rooms above it in this list; `workers` and `report` do not import each other.
"""
