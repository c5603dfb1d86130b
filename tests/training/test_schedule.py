"""Schedules are functions of the spent fraction."""

import pytest

from dataecho.errors import SettingError
from dataecho.training.schedule import ConstantSchedule, LinearDecay, WarmUpDrops


def values(schedule):
    return [schedule.factor(fraction) for fraction in (0.0, 0.5, 1.0)]


def test_the_constant_schedule_is_one_throughout():
    assert values(ConstantSchedule()) == [1, 1, 1]
    assert ConstantSchedule().is_constant


@pytest.mark.parametrize(
    ("final", "expected"), [(0.0, [1, 0.5, 0]), (0.01, [1, 0.505, 0.01]), (0.5, [1, 0.75, 0.5]), (1.0, [1, 1, 1])]
)
def test_linear_decay_is_a_straight_line_to_its_final_fraction(final, expected):
    assert values(LinearDecay(final_fraction=final)) == pytest.approx(expected, abs=1e-15)
    assert not LinearDecay(final_fraction=final).is_constant


def test_linear_decay_ends_at_a_hundredth_by_default():
    assert LinearDecay().factor(1.0) == pytest.approx(0.01, abs=1e-15)


@pytest.mark.parametrize("final", [-0.1, 1.1, float("nan")])
def test_a_final_fraction_outside_of_zero_to_one_is_refused(final):
    with pytest.raises(
        SettingError, match=rf"^schedule.final_fraction={final} cannot be used. Allowed: \[0, 1\]. 0.01"
    ):
        LinearDecay(final_fraction=final)


def test_warm_up_is_a_straight_line_and_every_drop_multiplies():
    schedule = WarmUpDrops(warm_up=0.1, drops=[0.5, 0.8], drop=0.1, start=0.2)
    found = [schedule.factor(spent) for spent in (0.0, 0.025, 0.05, 0.1, 0.3, 0.499, 0.5, 0.799, 0.8, 1.0)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 1, 1, 1, 0.1, 0.1, 0.01, 0.01], abs=1e-15)
    assert not schedule.is_constant
    assert WarmUpDrops(warm_up=0.1, drops=[0.5]).factor(0.0) == 0.001


def test_without_a_warm_up_the_base_rate_is_there_at_once():
    assert values(WarmUpDrops(warm_up=0.0, drops=[0.5], drop=0.5)) == [1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warm_up": -0.1, "drops": [0.5]}, r"schedule.warm_up=-0.1 cannot be used. Allowed: \[0, 1\)"),
        ({"warm_up": 1, "drops": [0.5]}, "schedule.warm_up=1 cannot be used"),
        ({"warm_up": float("nan"), "drops": [0.5]}, "schedule.warm_up=nan cannot be used"),
        ({"warm_up": 0.1, "drops": []}, r"schedule.drops=\[\] cannot be used. .*schedule=constant"),
        ({"warm_up": 0.1, "drops": [0.8, 0.5]}, r"schedule.drops=\[0.8, 0.5\] cannot be used. .*rising"),
        ({"warm_up": 0.1, "drops": [0.5, 0.5]}, r"schedule.drops=\[0.5, 0.5\] cannot be used"),
        ({"warm_up": 0.6, "drops": [0.5]}, r"schedule.drops=\[0.5\] cannot be used. .*from schedule.warm_up=0.6"),
        ({"warm_up": 0.1, "drops": [0.5, 1.0]}, r"schedule.drops=\[0.5, 1.0\] cannot be used. .*to below 1"),
        ({"warm_up": 0.1, "drops": [0.5], "drop": 1.0}, r"schedule.drop=1 cannot be used. Allowed: \(0, 1\)"),
        ({"warm_up": 0.1, "drops": [0.5], "drop": 0.0}, "schedule.drop=0 cannot be used"),
        ({"warm_up": 0.1, "drops": [0.5], "start": 0.0}, r"schedule.start=0 cannot be used. Allowed: \(0, 1\]"),
        ({"warm_up": 0.1, "drops": [0.5], "start": 1.5}, "schedule.start=1.5 cannot be used"),
    ],
)
def test_a_warm_up_and_drops_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        WarmUpDrops(**settings)
