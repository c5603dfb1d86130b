"""Studies go to JSON and back without loss, and other text is refused."""

import dataclasses
import json
import math

import pytest

from dataecho.errors import DataError
from dataecho_study.results import Cell, Repeat, Study


def _repeat(**changes):
    facts = {
        "number": 0,
        "seed": 7,
        "fresh": 12_000.0,
        "seconds": 3.5,
        "best": 0.91,
        "settings": {"optimizer.learning_rate": 0.1},
        "trials": 8,
        "missed": 1,
        "diverged": 2,
        "border": [],
        "run": "0",
    }
    return Repeat(**{**facts, **changes})


def _study(**changes):
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
        "cells": [Cell(key="echo=none", axes={"echo": "none", "factor": 1.0}, repeats=[_repeat()])],
        "command": "python train.py -m study=figure_3 task=digits",
        "versions": {"numpy": "2"},
        "machine": "2 cores",
        "seconds_total": 60.0,
        "protocol": {"searches": 5},
    }
    return Study(**{**facts, **changes})


def test_a_study_survives_json_with_missed_targets_and_nothing_measured():
    missed = _repeat(fresh=math.inf, seconds=math.inf, best=-math.inf, ratio=None, entered=5.0)
    study = _study(cells=[Cell(key="a", axes={"echo": "batch", "factor": 2.0}, repeats=[missed, _repeat(number=1)])])

    text = study.to_json()

    assert json.loads(text)["cells"][0]["repeats"][0]["fresh"] == "Infinity"
    assert Study.from_json(text) == study


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data.pop("target"), "target: Field required"),
        (lambda data: data.update(goal="more"), "goal: Input should be 'min' or 'max'"),
        (lambda data: data.update(surprise=1), "surprise: Unexpected keyword argument"),
        (lambda data: data["cells"][0]["repeats"][0].update(fresh="many"), "cells.0.repeats.0.fresh: Input should be"),
    ],
)
def test_a_damaged_study_is_refused_by_the_name_of_its_field(change, problem):
    data = json.loads(_study().to_json())
    change(data)

    with pytest.raises(DataError, match=f"This is no study: {problem}"):
        Study.from_json(json.dumps(data))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(DataError, match="This is no study: the text: Invalid JSON"):
        Study.from_json("<html>")


def test_studies_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _study().target = 1.0
