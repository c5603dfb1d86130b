"""The time model's numbers, by hand, and what the timekeeper adds up."""

import math
from types import SimpleNamespace

import pytest

from dataecho.pipeline.accounting.meter import Meter
from dataecho.pipeline.accounting.meter import Times as WorkTimes
from dataecho.training import timing
from dataecho.training.timing import Sums, Timekeeper, TimeModel


def model(**changes):
    settings = {"batch_size": 4, "num_workers": 2, "shares_cores": False, "workers_are_upstream": False, "num_cores": 2}
    return TimeModel(**{**settings, **changes})


def sums(**changes):
    """Ten fresh batches of 4 and twenty steps: factor 2. Workers: 12 s up to the echo point and 4 s after it."""
    values = {
        "upstream_seconds": 12.0,
        "downstream_seconds": 4.0,
        "step_seconds": 5.0,
        "input_wait_seconds": 3.0,
        "cpu_seconds": 14.0,
        "fresh_examples": 40,
        "steps": 20,
        "duplicates": 6,
        "total_lag": 90.0,
        "repeats": 40,
    }
    return Sums(**{**values, **changes})


ALWAYS = {  # of these sums, whatever the model
    "input_wait_fraction": 3 / 8,
    "measured_time_per_fresh_example": 8 / 40,
    "duplicates_per_batch": 6 / 20,
    "echo_lag": 90 / 40,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Item echo: 12 s on 2 workers over 10 fresh batches; downstream is the step, 5 s over 20, for 4/2/20 is less.
        ({}, {"upstream": 0.6, "downstream": 0.25, "predicted": 0.6 / 4}),
        # Batch echo: the workers' 12 + 4 s are all upstream.
        ({"workers_are_upstream": True}, {"upstream": 0.8, "downstream": 0.25, "predicted": 0.8 / 4}),
        # Four workers: two downstream steps take longer than one upstream.
        ({"num_workers": 4}, {"upstream": 0.3, "downstream": 0.25, "predicted": 2 * 0.25 / 4}),
        # Shared cores: 14 CPU seconds on 2 cores over 10 fresh batches, 0.7, are more than 0.6.
        ({"shares_cores": True}, {"upstream": 0.6, "downstream": 0.25, "predicted": 0.7 / 4}),
        # ... but not more than 0.8, nor on four cores.
        (
            {"shares_cores": True, "workers_are_upstream": True},
            {"upstream": 0.8, "downstream": 0.25, "predicted": 0.8 / 4},
        ),
        ({"shares_cores": True, "num_cores": 4}, {"upstream": 0.6, "downstream": 0.25, "predicted": 0.6 / 4}),
    ],
)
def test_echoed_sums_give_these_numbers(changes, expected):
    assert model(**changes).metrics(sums()) == pytest.approx(
        {
            **ALWAYS,
            "upstream_time": expected["upstream"],
            "downstream_time": expected["downstream"],
            "upstream_downstream_ratio": expected["upstream"] / expected["downstream"],
            "predicted_time_per_fresh_example": expected["predicted"],
        }
    )


def test_workers_after_the_echo_point_count_where_they_are_slower_than_the_step():
    metrics = model().metrics(sums(downstream_seconds=16.0))
    assert metrics["downstream_time"] == pytest.approx(16 / 2 / 20)
    assert metrics["predicted_time_per_fresh_example"] == pytest.approx(2 * 0.4 / 4)


def test_without_echo_every_step_takes_a_fresh_batch():
    metrics = model(workers_are_upstream=True).metrics(sums(steps=10, repeats=0, total_lag=0.0, duplicates=0))
    assert metrics == pytest.approx(
        {
            **ALWAYS,
            "upstream_time": 0.8,
            "downstream_time": 0.5,
            "upstream_downstream_ratio": 1.6,
            "predicted_time_per_fresh_example": 0.2,
            "duplicates_per_batch": 0.0,
            "echo_lag": 0.0,
        }
    )


def test_transfers_count_by_what_was_read_with_the_examples_that_still_wait_in_the_buffer():
    metrics = model().metrics(sums(transfer_seconds=30.0, num_reads=100))
    assert metrics["upstream_time"] == pytest.approx(4 * 30 / 100)  # not 30 s for 10 fresh batches
    assert metrics["predicted_time_per_fresh_example"] == pytest.approx(30 / 40)


def test_downstream_begins_when_the_buffer_is_filled():
    step_bound, filled = model(num_workers=4), {"filling_seconds": 2.0}
    assert step_bound.metrics(sums(**filled))["predicted_time_per_fresh_example"] == pytest.approx((2 + 5) / 40)
    # Upstream has worked all the time: 12 s on 2 workers, 30 s of transfers, 18 s of two processors.
    for changes, seconds in (
        ({"upstream_seconds": 18.0}, 9),
        ({"transfer_seconds": 30.0, "num_reads": 100}, 30),
        ({"cpu_seconds": 18.0}, 9),
    ):
        metrics = model(shares_cores=True).metrics(sums(**filled, **changes))
        assert metrics["predicted_time_per_fresh_example"] == pytest.approx(seconds / 40)


@pytest.mark.parametrize("nothing", [{"steps": 0}, {"fresh_examples": 0}])
def test_a_stretch_without_steps_or_fresh_examples_has_no_numbers(nothing):
    assert model().metrics(sums(**nothing)) == {}


def test_a_step_that_takes_no_time_makes_the_ratio_infinite():
    metrics = model(workers_are_upstream=True).metrics(sums(step_seconds=0.0, input_wait_seconds=0.0))
    assert metrics["upstream_downstream_ratio"] == math.inf
    assert metrics["input_wait_fraction"] == 0


def test_sums_subtract_field_by_field():
    twice = sums(**{name: 2 * value for name, value in vars(sums()).items()})
    assert twice.minus(sums()) == sums()
    assert sums().minus(sums()) == Sums()


class Times:
    """Stands in for the ``time`` module: seconds pass when told to, the processor's twice as fast."""

    def __init__(self):
        self.seconds = 50.0

    def perf_counter(self):
        return self.seconds

    def process_time(self):
        return 2 * self.seconds


def trained(*, num_fresh, **planned):
    return SimpleNamespace(num_fresh=num_fresh, planned=SimpleNamespace(num_fresh=num_fresh, **planned))


def worked(**seconds):
    work = WorkTimes()
    for stage, spent in seconds.items():
        work.seconds[stage], work.num_examples[stage] = spent, 1
    return work


@pytest.fixture
def times(monkeypatch):
    times = Times()
    monkeypatch.setattr(timing, "time", times)
    return times


def test_only_next_is_timed_as_input_wait_the_first_apart_and_a_stop_is_part_of_nothing(times):
    meter = Meter(frozenset({"read", "decode"}))
    meter.add(worked(read=90.0, decode=9.0))  # before the run
    keeper = Timekeeper(meter, model())
    keeper.start()
    for wait in (20, 10, 10):
        times.seconds += 1  # the step before
        keeper.ask()
        times.seconds += wait
        keeper.got()
    times.seconds += 1
    meter.add(worked(read=1.0, decode=6.0, augment=5.0))
    meter.add_process(cpu_seconds=0.5)
    keeper.stop()
    times.seconds += 1000
    meter.add(worked(read=33.0))  # an evaluation's, say
    keeper.start()
    times.seconds += 1
    keeper.ask()
    times.seconds += 10
    keeper.got()
    meter.add(worked(read=0.5))
    meter.add(worked(read=77.0), by_worker=False)
    keeper.stop()
    assert keeper.sums == Sums(
        upstream_seconds=7.5,
        downstream_seconds=5.0,
        step_seconds=5.0,
        input_wait_seconds=50.0,
        filling_seconds=20.0,
        cpu_seconds=2 * (21 + 2 * 11 + 1 + 11) + 0.5,
        num_reads=3,
    )


def test_what_is_trained_is_added_from_the_plan():
    keeper = Timekeeper(Meter(frozenset()), model())
    keeper.sums = Sums(steps=1, fresh_examples=4)
    keeper.trained(trained(num_fresh=1, num_valid=4, num_duplicates=2, total_lag=7.5))
    keeper.trained(trained(num_fresh=4, num_valid=4, num_duplicates=0, total_lag=0.0))
    assert keeper.sums == Sums(steps=3, fresh_examples=9, repeats=3, duplicates=2, total_lag=7.5)
