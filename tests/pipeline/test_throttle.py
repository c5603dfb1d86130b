"""A source that is slowed down: the same data, at no more than the rate that was asked for."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import Stage
from dataecho.pipeline.throttle import Throttle
from dataecho.testing.source_contract import SourceContract


def arrays(last=39):
    return ArraySource({"x": np.append(np.arange(39, dtype=np.int64), last)})


class TestThrottledSource(SourceContract):
    @pytest.fixture
    def new_source(self):
        return lambda: Throttle(examples_per_second=1e6).slow_down(arrays())

    @pytest.fixture
    def changed_source(self):
        return Throttle(examples_per_second=1e6).slow_down(arrays(last=7))


def read_time(throttle, num_batches=10, **settings):
    """Seconds for so many batches of 8 examples of 8 bytes, and for the same without a limit."""
    spent = []
    for source in (throttle.slow_down(arrays()), arrays()):
        feed = Feed(
            source,
            [Stage("decode", lambda record: record)],
            batch_size=8,
            shuffle_buffer=0,
            seed=0,
            settings=PipelineSettings(look_ahead=2, **settings),
        )
        with feed as batches:
            started = time.monotonic()
            got = [batch["x"].tolist() for batch in itertools.islice(batches, num_batches)]
            spent.append((time.monotonic() - started, got))
    assert spent[0][1] == spent[1][1]
    return spent[0][0]


def test_examples_per_second_are_not_exceeded():
    assert read_time(Throttle(examples_per_second=400)) >= 0.95 * 80 / 400


def test_bytes_per_second_are_not_exceeded():
    assert read_time(Throttle(bytes_per_second=3200)) >= 0.95 * 80 * 8 / 3200


def test_latencies_of_examples_that_are_read_side_by_side_overlap():
    spent = read_time(Throttle(latency=0.05))
    assert 0.05 <= spent < 0.6 * 80 * 0.05


def test_a_limit_adds_readers_so_that_no_worker_waits():
    throttled = Throttle(latency=0.01).slow_down(arrays())
    assert throttled.num_readers == 8 and throttled.num_fetches == 0


class Fetched(Source):
    num_shards, random_access, num_fetches, digest = 2, True, 1, "fetched"

    def num_examples(self, shard):
        return 4

    def fetch(self, shard, *, proceed):
        return 1000

    def read(self, shards, ks):
        return [{"x": np.int64(k)} for k in ks.tolist()]


def test_the_bytes_of_a_fetched_shard_travel_at_the_rate_and_its_examples_are_then_here():
    source = Throttle(bytes_per_second=10_000).slow_down(Fetched())
    looks = []
    started = time.monotonic()
    assert source.fetch(0, proceed=lambda: looks.append(time.monotonic())) == 1000
    fetched = time.monotonic()
    source.read(np.array([0]), np.array([1]))
    assert fetched - started >= 0.095 and looks
    assert time.monotonic() - fetched < 0.05


def test_examples_that_are_here_do_not_wait_for_the_next_shard():
    source = Throttle(bytes_per_second=100, examples_per_second=1000, latency=9.0).slow_down(Fetched())
    fetching, done = threading.Event(), threading.Event()

    def proceed():
        fetching.set()
        if done.is_set():
            raise InterruptedError

    with ThreadPoolExecutor(2) as pool:
        fetch = pool.submit(source.fetch, 1, proceed=proceed)  # takes 10 s, and 9 of latency
        try:
            assert fetching.wait(10)
            read = pool.submit(source.read, np.array([0]), np.array([1]))
            assert read.result(timeout=5) == [{"x": 1}]
        finally:
            done.set()
        with pytest.raises(InterruptedError):
            fetch.result()


def test_a_fetch_that_stands_still_does_not_arrive_meanwhile():
    source = Throttle(bytes_per_second=10_000).slow_down(Fetched())
    pauses = iter([0.3])
    started = time.monotonic()
    source.fetch(0, proceed=lambda: time.sleep(next(pauses, 0)))
    assert time.monotonic() - started >= 0.1 + 0.3 - 0.01


def test_without_a_limit_the_source_is_itself():
    source = arrays()
    assert Throttle().slow_down(source) is source
    assert Throttle().limits == {}
    assert Throttle(latency=0.5, bytes_per_second=3).limits == {"bytes_per_second": 3, "latency": 0.5}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("bytes_per_second", 0, "null or numbers > 0"),
        ("examples_per_second", -1, "null or numbers > 0"),
        ("latency", -0.1, "seconds >= 0"),
    ],
)
def test_a_limit_that_is_none_is_refused(name, value, allowed):
    with pytest.raises(SettingError, match=rf"pipeline.throttle.{name}={value}.*Allowed: {allowed}"):
        Throttle(**{name: value})
