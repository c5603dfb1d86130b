"""Exactly one unit; what is forbidden, and what is spent."""

import pytest

from dataecho.errors import SettingError
from dataecho.training.budget import Budget


def forbids(budget, *, fresh=0, num_fresh=4, steps=0, seconds=0.0):
    return budget.forbids(fresh=fresh, num_fresh=num_fresh, steps=steps, seconds=seconds)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, "nothing"),
        ({"fresh": 8, "steps": 2}, "fresh=8, steps=2"),
        ({"steps": 2, "seconds": 1.5}, "steps=2, seconds=1.5"),
        ({"fresh": 8, "steps": 2, "seconds": 1.5}, "fresh=8, steps=2, seconds=1.5"),
    ],
)
def test_a_budget_has_exactly_one_unit(given, shown):
    with pytest.raises(
        SettingError,
        match=rf"^budget={shown} cannot be used. Allowed: exactly one of fresh, steps, seconds. For instance budget=",
    ):
        Budget(**given)


@pytest.mark.parametrize("unit", ["fresh", "steps", "seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_budget_of_nothing_is_refused(unit, value):
    allowed = "null or (whole )?numbers > 0"
    with pytest.raises(SettingError, match=rf"^budget.{unit}={value} cannot be used. Allowed: {allowed}. Give the"):
        Budget(**{unit: value})


def test_fresh_examples_may_be_spent_to_the_last_and_no_further():
    budget = Budget(fresh=10)
    assert not forbids(budget, fresh=6, num_fresh=4)
    assert forbids(budget, fresh=7, num_fresh=4)
    assert forbids(budget, fresh=10, num_fresh=1)


def test_a_fresh_budget_lets_repeats_through_even_when_it_is_spent():
    assert not forbids(Budget(fresh=10), fresh=10, num_fresh=0, steps=1000, seconds=1e9)


def test_steps_may_be_spent_to_the_last():
    assert not forbids(Budget(steps=3), steps=2, fresh=10**9)
    assert forbids(Budget(steps=3), steps=3)
    assert forbids(Budget(steps=3), steps=3, num_fresh=0)


def test_seconds_allow_a_step_that_starts_in_time():
    assert not forbids(Budget(seconds=3), seconds=2.999, steps=10**9)
    assert forbids(Budget(seconds=3), seconds=3.0)


@pytest.mark.parametrize(
    ("budget", "fraction"),
    [(Budget(fresh=8), 0.25), (Budget(steps=10), 0.3), (Budget(seconds=10), 0.4), (Budget(fresh=1), 1.0)],
)
def test_the_spent_fraction_is_that_of_its_unit_and_at_most_one(budget, fraction):
    assert budget.spent_fraction(fresh=2, steps=3, seconds=4.0) == fraction


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(fresh=1200000), "1,200,000 fresh examples"),
        (Budget(steps=1000), "1,000 steps"),
        (Budget(seconds=2.5), "2.5 seconds"),
    ],
)
def test_a_budget_reads_as_a_person_would_say_it(budget, text):
    assert str(budget) == text
