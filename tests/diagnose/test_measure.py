"""The measurement on parts that take a known time: real feed, slow source, stage and backend.

Times are exact where a clock that only parts move takes the place of the machine's, and all work is done by the caller.
Where threads of their own read, parts sleep, and times are bounded from below: no busy machine makes a sleep shorter.
"""

import time

import numpy as np
import pytest

from dataecho.diagnose import measure as measure_module
from dataecho.diagnose.measure import measure
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage
from dataecho.pipeline.throttle import Throttle
from dataecho.training.contracts import Backend
from dataecho.training.ranks import OneRank


class Clock:
    """Stands still until a part takes time."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds

    def take(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(time, name, clock)
    return clock


class SlowBackend(Backend):
    """Takes 2 ms for a copy, 6 ms for a step, after which only a synchronisation waits, as with an accelerator."""

    keeps_host_arrays = False
    identity = {"backend.device": "slow"}  # noqa: RUF012
    versions = None
    ranks = OneRank()

    def __init__(self, take):
        self.take = take
        self.asked, self.rates, self.sizes = 0.0, set(), set()

    def put(self, batch):
        self.asked += 0.002
        self.sizes.add(len(batch))
        return batch

    def train_step(self, placed, *, learning_rate):
        self.asked += 0.006
        self.rates.add(learning_rate)

    def synchronize(self):
        self.take(self.asked)
        self.asked = 0.0

    def take_loss(self): ...

    def eval_step(self, placed): ...

    def state(self): ...

    def load_state(self, arrays, values): ...

    def weights(self): ...

    def load_weights(self, weights): ...


def stages(take):
    """A random crop that takes 1 ms per example."""

    def crop(chunk, keys):
        take(0.001 * len(keys))
        return chunk

    return (Stage("decode", lambda record: dict(record)), Stage("crop", crop, random=True, batched=True))


def measured(source, take, *, backend=None, seconds=1.0, num_threads=0, shuffle_buffer=10**6):
    shown = []
    result = measure(
        source,
        stages(take),
        backend or SlowBackend(take),
        batch_size=8,
        shuffle_buffer=shuffle_buffer,
        seed=0,
        settings=PipelineSettings(num_threads=num_threads, look_ahead=2, chunk_size=2),
        seconds=seconds,
        emulated={"latency": 1.0},
        show=lambda part, share: shown.append((part, share)),
    )
    return result, shown


def source(size=64):
    return ArraySource({"x": np.arange(size)})


@pytest.fixture
def only_the_caller_works(monkeypatch):
    """Also where another number of workers is asked for: threads would share the clock."""
    monkeypatch.setattr(measure_module, "_with_workers", lambda settings, number: settings)


@pytest.mark.usefixtures("only_the_caller_works")
def test_every_part_takes_its_time_alone_and_with_the_other_running(clock):
    backend = SlowBackend(clock.take)
    result, shown = measured(source(), clock.take, backend=backend)
    exactly = pytest.approx
    for side in (result.alone, result.both):
        assert side.worker_seconds == exactly({"read": 0, "decode": 0, "crop": 0.008, "batch": 0})  # 8 examples
        assert (side.place_seconds, side.step_seconds, side.transfer_seconds) == exactly((0.002, 0.006, 0))
    assert result.stage_time(result.alone, "crop") == exactly(0.008)
    assert (result.real_seconds, result.cached_seconds) == exactly((0.008, 0.008))
    assert result.training_seconds == exactly(0.008 + 0.002 + 0.006)  # the caller does one after the other
    assert result.input_wait_fraction == exactly(0.5)
    assert (result.stages, result.random_stages) == (("read", "decode", "crop", "batch", "device"), {"crop"})
    assert (result.batch_size, result.num_workers, result.shares_cores, result.reads_apart) == (8, 1, False, False)
    assert result.emulated == {"latency": 1.0}
    assert backend.rates == {0.0} and backend.sizes == {8}  # the weights are left alone
    shares = [share for _, share in shown]
    assert shares == sorted(shares) and shares[-1] == exactly(1)
    assert list(dict(shown)) == ["first batch", "device", "step", "input", "both", "cached", "scaling"]


def test_what_threads_of_their_own_read_is_no_time_of_the_workers():
    slow = Throttle(examples_per_second=400).slow_down(source())  # 20 ms per batch
    result, _ = measured(slow, time.sleep, num_threads=2)
    assert result.reads_apart
    for side in (result.alone, result.both):
        assert side.transfer_seconds > 0.015
        assert side.worker_seconds["read"] < 0.5 * side.transfer_seconds
    assert result.real_seconds > 0.015
    assert result.cached_seconds < result.real_seconds  # without reading there is only the crop


@pytest.mark.parametrize(("num_threads", "other"), [(1, 2), (2, 1), (3, 1)])
def test_several_workers_are_compared_with_one(clock, monkeypatch, num_threads, other):
    """A batch from memory takes 12 ms divided by the number of workers."""

    def cached(bench, source, stages, seed, settings, deadline):
        asked.append(settings.num_workers)
        return measure_module._Interval(
            seconds=0.012 / settings.num_workers,
            cpu_seconds=0.0,
            worker_seconds={},
            transfer_seconds=0.0,
            planned=None,
        )

    asked = []
    monkeypatch.setattr(measure_module, "_cached", cached)
    result, _ = measured(source(), clock.take, num_threads=num_threads)
    assert asked == [num_threads, other]
    assert result.num_workers == num_threads
    assert result.scaling.num_workers == max(num_threads, other)
    assert result.scaling.speed_up == pytest.approx(result.scaling.num_workers)


@pytest.mark.usefixtures("only_the_caller_works")
def test_a_large_shuffle_buffer_does_not_have_to_be_filled(clock):
    class InOrder(ArraySource):
        random_access = False  # read when an item enters the buffer
        num_read = 0

        def read(self, shards, ks):
            self.num_read += len(ks)
            return super().read(shards, ks)

    counting = InOrder({"x": np.arange(100_000)})
    measured(counting, clock.take, seconds=0.2)
    assert 0 < counting.num_read < 20_000


@pytest.mark.usefixtures("only_the_caller_works")
def test_three_batches_are_measured_in_however_short_a_time(clock):
    result, _ = measured(source(), clock.take, seconds=1e-6)
    assert result.training_seconds == pytest.approx(0.016)
    assert result.both.worker_seconds["crop"] == pytest.approx(0.008)
