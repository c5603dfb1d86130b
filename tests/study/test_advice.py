"""Settings of winners against the factor."""

import dataclasses

import pytest

from dataecho_study.advice import EFFECTIVE, RATE, REST, trends
from dataecho_study.statistics import Interval
from tests.study.made import SCATTER, cell, study


def won(factor, settings, **axes):
    made = cell(1000, echo="none" if factor == 1 else "batch", factor=factor, **axes)
    repeats = [
        dataclasses.replace(one, settings=settings(scatter)) for one, scatter in zip(made.repeats, SCATTER, strict=True)
    ]
    return dataclasses.replace(made, repeats=repeats)


def falling(factor):
    def settings(scatter):
        return {
            RATE: 0.2 / factor * scatter,
            "optimizer.momentum": 0.9,
            "schedule.name": "linear" if scatter > 1 else "constant",
        }

    return settings


def test_a_rate_that_falls_with_the_factor_is_told_with_its_interval():
    found = {one.setting: one for one in trends(study(*(won(e, falling(e)) for e in (1.0, 2.0, 4.0))))}

    assert list(found) == [RATE, "schedule.name", REST, EFFECTIVE]
    assert found[RATE].values == {1.0: "0.2", 2.0: "0.1", 4.0: "0.05"}
    assert found[RATE].change.estimate == pytest.approx(0.5, rel=0.01)
    assert found[RATE].change.low > 0.45 and found[RATE].change.high < 0.55
    assert found[RATE].sentence.startswith("falls: 0.50 times with each doubling of the factor (0.")
    assert found[REST].sentence == "too few winners, or all alike"
    assert found[EFFECTIVE].values[1.0] == "2"
    assert found["schedule.name"].values[1.0] == "constant (3x), linear (2x)"
    assert found["schedule.name"].sentence == "winners are counted: a choice has no trend"


def test_repeats_of_one_tuning_are_one_winner():
    cells = [won(e, falling(e)) for e in (1.0, 2.0)]

    found = trends(study(*cells, is_tuned_once=True))

    assert found[0].change is None
    assert found[1].values == {1.0: "constant (1x)", 2.0: "constant (1x)"}


def test_an_interval_with_1_in_it_is_no_trend():
    trend = dataclasses.replace(
        trends(study(won(1.0, falling(1)), won(2.0, falling(2))))[0], change=Interval(low=0.9, estimate=1.1, high=1.3)
    )

    assert trend.sentence == "no trend shown: 1.10 times with each doubling (0.90 to 1.30)"
    assert dataclasses.replace(trend, change=Interval(low=1.1, estimate=1.2, high=1.3)).sentence.startswith(
        "grows: 1.20"
    )
