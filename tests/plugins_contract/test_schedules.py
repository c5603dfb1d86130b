"""The schedules of the core and of the example plugin."""

import pytest

from dataecho.errors import SettingError
from dataecho.testing.schedule_contract import ScheduleContract
from dataecho.training.schedule import ConstantSchedule, LinearDecay, WarmUpDrops
from dataecho_cosine.schedule import CosineSchedule


class TestConstantSchedule(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return ConstantSchedule()


class TestLinearDecay(ScheduleContract):
    @pytest.fixture(params=[{}, {"final_fraction": 0.0}, {"final_fraction": 0.5}])
    def schedule(self, request):
        return LinearDecay(**request.param)


class TestWarmUpDrops(ScheduleContract):
    decays = False

    @pytest.fixture(params=[{}, {"drop": 0.5}, {"start": 1.0 / 3}])
    def schedule(self, request):
        return WarmUpDrops(warm_up=0.05, drops=[0.5, 0.8], **request.param)


class TestWarmUpDropsWithoutWarmUp(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return WarmUpDrops(warm_up=0.0, drops=[0.5])


class TestCosineSchedule(ScheduleContract):
    @pytest.fixture(params=[{}, {"final_fraction": 0.5}])
    def schedule(self, request):
        return CosineSchedule(**request.param)


@pytest.mark.parametrize(
    ("final_fraction", "spent_fraction", "expected"),
    [(0.01, 0.0, 1.0), (0.01, 0.5, 0.505), (0.01, 1.0, 0.01), (0.0, 0.25, 0.75), (0.0, 1.0, 0.0), (1.0, 0.5, 1.0)],
)
def test_linear_decay_is_a_straight_line_to_the_final_fraction(final_fraction, spent_fraction, expected):
    assert LinearDecay(final_fraction=final_fraction).factor(spent_fraction) == pytest.approx(expected, rel=1e-12)


def test_a_hundredth_is_left_by_default():
    assert LinearDecay().factor(1.0) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_final_fraction_outside_0_to_1_is_refused(value):
    with pytest.raises(SettingError, match=rf"schedule\.final_fraction={value!r} cannot be used.*\[0, 1\]"):
        LinearDecay(final_fraction=value)
