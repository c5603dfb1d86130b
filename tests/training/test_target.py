"""When a run has arrived, and what it had cost by then."""

import math

import pytest

from dataecho.training.target import COSTS, Target

SPENT = {"fresh_examples": 8, "entered_examples": 12, "steps": 4, "train_time": 2.0, "wall_time": 3.0, "more": 9}


@pytest.mark.parametrize(("higher", "met"), [(True, [False, True, True]), (False, [True, True, False])])
def test_a_target_is_met_from_below_or_above_and_by_itself(higher, met):
    target = Target("score", 0.5, higher_is_better=higher)
    assert [target.is_met_by(value) for value in (0.4, 0.5, 0.6)] == met


@pytest.mark.parametrize("higher", [True, False])
def test_nan_never_meets_a_target_and_is_never_the_best(higher):
    target = Target("score", 0.5, higher_is_better=higher)
    assert not target.is_met_by(math.nan)
    assert not target.is_better(math.nan, None)
    assert not target.is_better(math.nan, 0.5)


def test_any_number_is_better_than_none():
    target = Target("score", 0.5, higher_is_better=True)
    assert target.is_better(-1e9, None)


@pytest.mark.parametrize(("higher", "better"), [(True, [False, False, True]), (False, [True, False, False])])
def test_better_is_strictly_better(higher, better):
    target = Target("score", 0.5, higher_is_better=higher)
    assert [target.is_better(value, 0.5) for value in (0.4, 0.5, 0.6)] == better


def test_the_costs_are_those_of_the_first_time():
    target = Target("score", 0.5, higher_is_better=True)
    target.record(0.6, SPENT)
    first = dict(target.costs)
    target.record(0.9, {name: 2 * value for name, value in SPENT.items()})
    assert target.costs == first
    assert first == {
        "fresh_examples_to_target": 8,
        "entered_examples_to_target": 12,
        "steps_to_target": 4,
        "train_time_to_target": 2.0,
        "wall_time_to_target": 3.0,
    }
    assert target.as_metrics() == {"reached_target": 1.0, **first}


def test_a_miss_has_no_costs():
    target = Target("score", 0.5, higher_is_better=True)
    for value in (0.4, math.nan, -math.inf):
        target.record(value, SPENT)
    assert not target.reached
    assert target.as_metrics() == {"reached_target": 0.0}


def test_every_cost_is_named_in_the_list():
    assert COSTS == ("fresh_examples", "entered_examples", "steps", "train_time", "wall_time")
