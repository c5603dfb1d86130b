"""Two clocks over a fake one: exact seconds."""

import pytest

from dataecho.training.clock import Clock


def times(clock):
    return clock.wall_time, clock.train_time


@pytest.fixture
def seconds():
    return [100.0]


@pytest.fixture
def clock(seconds):
    return Clock(now=lambda: seconds[0])


def test_both_clocks_stand_at_zero_until_started(clock, seconds):
    seconds[0] += 5
    assert times(clock) == (0, 0)
    clock.start()
    assert times(clock) == (0, 0)
    seconds[0] += 2
    assert times(clock) == (2, 2)


def test_train_time_stands_still_inside_stopped_and_wall_time_does_not(clock, seconds):
    clock.start()
    seconds[0] += 1
    with clock.stopped():
        seconds[0] += 10
        assert times(clock) == (11, 1)
        seconds[0] += 10
        assert times(clock) == (21, 1)
    assert times(clock) == (21, 1)
    seconds[0] += 3
    assert times(clock) == (24, 4)


def test_stops_add_up(clock, seconds):
    clock.start()
    for _ in range(3):
        seconds[0] += 1
        with clock.stopped():
            seconds[0] += 10
    assert times(clock) == (33, 3)


def test_train_time_goes_on_after_an_error_while_stopped(clock, seconds):
    clock.start()
    with pytest.raises(OSError), clock.stopped():
        seconds[0] += 10
        raise OSError
    seconds[0] += 1
    assert times(clock) == (11, 1)


def test_a_resumed_clock_adds_to_what_earlier_parts_took(seconds):
    clock = Clock(now=lambda: seconds[0])
    clock.load_state_dict({"wall_time": 50.0, "train_time": 30.0})
    assert times(clock) == (50, 30)
    clock.start()
    seconds[0] += 1
    with clock.stopped():
        seconds[0] += 2
    assert times(clock) == (53, 31)
