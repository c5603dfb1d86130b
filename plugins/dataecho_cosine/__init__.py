"""Example of a third-party plugin: a cosine schedule, added without a change to the core.

A plugin is three things: a class (`schedule.py`), its config (`conf/`), and a search path plugin that shows the config
to Hydra (`plugins/hydra_plugins/dataecho_cosine/`). Copy the three to start your own.
"""
