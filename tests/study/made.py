"""Studies made of given costs."""

from dataecho_study.results import Cell, Repeat, Study

#: Relative scatter of five repeats, with mean logarithm 0 and a standard deviation of 5 %.
SCATTER = (0.94, 0.97, 1.0, 1.03, 1.064)


def repeat(number=0, fresh=1000.0, **changes):
    facts = {
        "number": number,
        "seed": 7 + number,
        "fresh": float(fresh),
        "seconds": float(fresh) / 100,
        "best": 0.9,
        "settings": {"optimizer.learning_rate": 0.1},
        "trials": 8,
        "missed": 1,
        "diverged": 2,
        "border": [],
        "run": str(number),
    }
    return Repeat(**{**facts, **changes})


def cell(fresh, scatter=SCATTER, *, changes=None, **axes):
    """A cell whose repeats cost about ``fresh``, which may be a list of exact costs."""
    values = fresh if isinstance(fresh, list) else [fresh * one for one in scatter]
    repeats = [repeat(number, value, **(changes or {})) for number, value in enumerate(values)]
    return Cell(key=",".join(f"{name}={value}" for name, value in axes.items()), axes=axes, repeats=repeats)


def study(*cells, **changes):
    facts = {
        "name": "figure_3",
        "task": "digits",
        "backend": "torch",
        "scale": "tiny",
        "metric": "accuracy",
        "goal": "max",
        "target": 0.9,
        "is_tuned_once": False,
        "is_complete": True,
        "cells": list(cells),
        "command": "python train.py -m study=figure_3 task=digits",
        "versions": {"numpy": "2"},
        "machine": "2 cores",
        "seconds_total": 60.0,
        "protocol": {"searches": 5, "trials": 8},
    }
    return Study(**{**facts, **changes})
