"""A source without random access is read when items enter the plan: in source order, each item once an epoch."""

import itertools
import threading
import time

import numpy as np
import pytest

from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import ExampleError, Stage
from dataecho.plan import keys as draws

LENGTHS = [7, 12, 5, 16]


class Shards(Source):
    """Four shards of numbers that remember the order they were read in."""

    num_shards = len(LENGTHS)
    digest = "shards"

    def __init__(self, *, random_access=False, broken=None):
        self.reads, self.lock = [], threading.Lock()
        self._random_access, self._broken = random_access, broken

    @property
    def random_access(self):
        return self._random_access

    def num_examples(self, shard):
        return LENGTHS[shard]

    def read(self, shards, ks):
        positions = list(zip(shards.tolist(), ks.tolist(), strict=True))
        with self.lock:
            self.reads += positions
        if self._broken in positions:
            raise OSError("connection reset")
        return [{"x": np.int64(100 * shard + k)} for shard, k in positions]


def shift(example, key):
    return {**example, "shift": draws.integers(key, draw=0, high=1 << 30)}


def feed(source, *, num_threads=1, state=None, **echo):
    return Feed(
        source,
        [Stage("decode", lambda record: record), Stage("shift", shift, random=True)],
        batch_size=4,
        shuffle_buffer=12,
        seed=0,
        settings=PipelineSettings(num_threads=num_threads, look_ahead=2, chunk_size=3),
        state=state,
        **echo,
    )


ECHOES = {
    "none": {},
    "read": {"echo_after": "read", "factor": 2.5},
    "decode": {"echo_after": "decode", "factor": 3.0},
    "shift": {"echo_after": "shift", "factor": 2.0},
    "batch": {"echo_after": "batch", "factor": 2.0},
    "shuffled batch": {"echo_after": "batch", "factor": 2.5, "batch_shuffle_buffer": 2},
}
every_echo = pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())


def rows(batches):
    return [{name: values.tolist() for name, values in batch.arrays.items()} for batch in batches]


@every_echo
def test_items_are_read_in_the_order_they_enter_and_once_each(echo):
    source = Shards()
    with feed(source, **echo) as batches:
        delivered = list(itertools.islice(batches, 60))
        batches.pause()
        reads = list(source.reads)
    entered = np.concatenate([batch.planned.entered for batch in delivered])
    both = min(len(entered), len(reads))
    assert reads[:both] == [tuple(item) for item in entered[:both, 2:].tolist()]
    most_ahead = 2 * 4 * (2 if "batch_shuffle_buffer" in echo else 1)
    assert len(reads) <= len(entered) + most_ahead
    ordinals = {ordinal for batch in delivered for ordinal in batch.planned.ordinal.tolist()}
    assert len(reads) > max(ordinals)
    assert batches.meter.read().num_reads == len(reads)


@every_echo
@pytest.mark.parametrize("num_threads", [2, 4])
def test_threads_change_no_batch_and_read_nothing_twice(echo, num_threads):
    with feed(Shards(), **echo) as batches:
        expected = rows(itertools.islice(batches, 40))
    source = Shards()
    with feed(source, num_threads=num_threads, **echo) as batches:
        assert rows(itertools.islice(batches, 40)) == expected
        batches.pause()
        epochs = len(source.reads) // sum(LENGTHS)
        assert max(source.reads.count(position) for position in set(source.reads)) <= epochs + 1


@every_echo
def test_a_continued_feed_reads_again_what_is_still_needed(echo):
    with feed(Shards(), **echo) as batches:
        whole = rows(itertools.islice(batches, 40))
    for stop in (0, 1, 9, 20):
        with feed(Shards(), **echo) as batches:
            list(itertools.islice(batches, stop))
            state = batches.state(stop)
        source = Shards()
        with feed(source, num_threads=2, state=state, **echo) as batches:
            assert rows(itertools.islice(batches, 40 - stop)) == whole[stop:]


def test_records_wait_in_memory_until_their_first_use():
    class Bytes(Shards):
        def read(self, shards, ks):
            return [b"." * 1000 for _ in super().read(shards, ks)]

    with Feed(
        Bytes(),
        [Stage("decode", lambda record: {"x": np.uint8(len(record) % 256)})],
        batch_size=4,
        shuffle_buffer=12,
        seed=0,
        settings=PipelineSettings(num_threads=1, look_ahead=1),
    ) as batches:
        list(itertools.islice(batches, 50))
        deadline = time.monotonic() + 30
        while batches.meter.read().waiting_bytes != 12_000 and time.monotonic() < deadline:
            time.sleep(0.01)  # the reader is on its way
        reading = batches.meter.read()
    # The buffer's twelve, and what entered with the batch that is ahead.
    assert reading.waiting_bytes == 12_000
    assert reading.max_stored_bytes <= (12 + 2 * 4) * 1000


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_read_that_fails_is_told_by_the_batch_that_needs_it(num_threads):
    with feed(Shards(), num_threads=num_threads) as batches:
        good = list(itertools.islice(batches, 40))
    broken = (1, 5)
    first = next(n for n, batch in enumerate(good) if broken in zip(batch.planned.shard, batch.planned.k, strict=True))
    with feed(Shards(broken=broken), num_threads=num_threads) as batches:
        got = 0
        with pytest.raises(ExampleError, match=r"stage 'read' failed on example \d+ of shard 1 .*connection reset"):
            for _ in batches:
                got += 1
    assert got <= first  # the records that were read with it share its fate


def test_random_access_reads_at_first_use_only():
    source = Shards(random_access=True)
    with feed(source, echo_after="decode", factor=3.0) as batches:
        delivered = list(itertools.islice(batches, 10))
        batches.pause()
    used = {ordinal for batch in delivered for ordinal in batch.planned.ordinal.tolist()}
    assert len(used) <= len(source.reads) <= len(used) + 2 * 4
    assert delivered[-1].planned.num_entered > len(used)


class FirstComesLast(Source):
    """Whose first read is answered when the twelfth has come: four batches of three."""

    num_shards, num_readers, random_access, digest = 1, 2, True, "slow first"

    def __init__(self):
        self.lock, self.num_reads, self.twelfth = threading.Lock(), 0, threading.Event()

    def num_examples(self, shard):
        return 24

    def read(self, shards, ks):
        with self.lock:
            self.num_reads += len(ks)
            number = self.num_reads
        if number == 12:
            self.twelfth.set()
        assert number > 1 or self.twelfth.wait(20)
        return [{"x": k} for k in ks]

    def __reduce__(self):
        return FirstComesLast, ()


def same(example):
    return example


@pytest.mark.parametrize("num_processes", [0, 1])
def test_a_worker_that_would_wait_for_a_record_plans_ahead_so_that_readers_go_on(num_processes):
    settings = PipelineSettings(num_threads=1, num_processes=num_processes, look_ahead=4)
    with Feed(
        FirstComesLast(), [Stage("same", same)], batch_size=3, shuffle_buffer=0, seed=0, settings=settings
    ) as batches:
        assert sorted(itertools.chain(*(next(batches)["x"].tolist() for _ in range(8)))) == list(range(24))
