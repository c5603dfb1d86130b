"""Shards that are fetched: ahead of the plan, in its order, once an epoch, and dropped after their last item."""

import itertools
import threading
import time

import numpy as np
import pytest

from dataecho.errors import DataError
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import ExampleError, Stage
from dataecho.plan import keys as draws

LENGTHS = [7, 0, 12, 5, 16, 9]


class Remote(Source):
    """Six shards, one of them empty, that have to be fetched; remembers what was asked of it, in order."""

    num_shards, random_access, num_readers, digest = len(LENGTHS), True, 2, "remote"

    def __init__(self, *, num_fetches=2, missing=None, on_fetch=lambda proceed: None):
        self._num_fetches, self._missing, self._on_fetch = num_fetches, missing, on_fetch
        self.events, self.here, self.lock = [], set(), threading.Lock()
        self.alone = 0

    @property
    def num_fetches(self):
        return self._num_fetches

    def num_examples(self, shard):
        return LENGTHS[shard]

    def fetch(self, shard, *, proceed):
        self._on_fetch(proceed)
        if shard == self._missing:
            raise DataError(f"shard {shard}: HTTP 404")
        with self.lock:
            assert shard not in self.here, "fetched although it is here"
            self.here.add(shard)
            self.events.append(("fetch", shard))
        return 100 * LENGTHS[shard]

    def drop(self, shard):
        with self.lock:
            self.here.discard(shard)
            self.events.append(("drop", shard))

    def read(self, shards, ks):
        with self.lock:
            for shard, k in zip(shards.tolist(), ks.tolist(), strict=True):
                self.events.append(("read", shard, k))
                self.alone += shard not in self.here
        return [{"x": np.int64(100 * shard + k)} for shard, k in zip(shards.tolist(), ks.tolist(), strict=True)]

    def all(self, kind):
        with self.lock:
            return [event[1] for event in self.events if event[0] == kind]


def shift(example, key):
    return {**example, "shift": draws.integers(key, draw=0, high=1 << 30)}


def feed(source, *, num_threads=2, read_ahead=2, state=None, **echo):
    return Feed(
        source,
        [Stage("decode", lambda record: record), Stage("shift", shift, random=True)],
        batch_size=4,
        shuffle_buffer=12,
        seed=0,
        settings=PipelineSettings(num_threads=num_threads, look_ahead=2, chunk_size=3, read_ahead=read_ahead),
        state=state,
        **echo,
    )


class AtHand(Remote):
    """The same data where nothing needs to be fetched."""

    num_fetches, num_readers = 0, 0


ECHOES = {
    "none": {},
    "read": {"echo_after": "read", "factor": 2.5},
    "decode": {"echo_after": "decode", "factor": 3.0},
    "batch": {"echo_after": "batch", "factor": 2.5, "batch_shuffle_buffer": 2},
}
every_echo = pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())


def rows(batches):
    return [{name: values.tolist() for name, values in batch.arrays.items()} for batch in batches]


@every_echo
@pytest.mark.parametrize("read_ahead", [1, 4])
@pytest.mark.parametrize("num_fetches", [1, 3])
def test_the_batches_are_those_of_data_at_hand(echo, num_fetches, read_ahead):
    with feed(AtHand(), **echo) as batches:
        expected = rows(itertools.islice(batches, 80))
    source = Remote(num_fetches=num_fetches)
    with feed(source, read_ahead=read_ahead, **echo) as batches:
        assert rows(itertools.islice(batches, 80)) == expected
        batches.pause()
    assert source.alone == 0, "read without the shard being here"
    assert source.here == set()


def test_every_shard_is_fetched_once_an_epoch_in_the_order_of_the_plan_and_dropped_after_its_last_item():
    source = Remote(num_fetches=1)
    with feed(source, read_ahead=1) as batches:
        delivered = list(itertools.islice(batches, 30))
        batches.pause()
        fetched, dropped, events = source.all("fetch"), source.all("drop"), list(source.events)
        reading = batches.meter.read()
    entered = np.concatenate([batch.planned.entered for batch in delivered])
    visits = [int(shard) for shard, _ in itertools.groupby(entered[:, 2].tolist())]
    # The last of an epoch may be the first of the next: fetched again or not, as it happens to be dropped in between.
    in_order = [shard for shard, _ in itertools.groupby(shard for shard in fetched if LENGTHS[shard])]
    assert in_order[: len(visits)] == visits
    assert len(fetched) <= len(visits) + 1 + 2 * (entered[-1, 1] + 1)  # one ahead, one reached, and empty ones
    assert len([shard for shard in dropped if LENGTHS[shard]]) >= len(visits) - 3
    for shard in set(visits):
        first_drop = events.index(("drop", shard)) if ("drop", shard) in events else len(events)
        reads = [event for event in events[:first_drop] if event[0] == "read" and event[1] == shard]
        assert first_drop == len(events) or {k for _, _, k in reads} == set(range(LENGTHS[shard]))
    assert reading.fetched_bytes == sum(100 * LENGTHS[shard] for shard in fetched)


@every_echo
def test_a_continued_feed_goes_on_from_any_batch(echo):
    with feed(Remote(), **echo) as batches:
        whole = rows(itertools.islice(batches, 40))
    for stop in (1, 9, 20):
        with feed(Remote(), **echo) as batches:
            list(itertools.islice(batches, stop))
            state = batches.state(stop)
        source = Remote()
        with feed(source, state=state, **echo) as batches:
            assert rows(itertools.islice(batches, 40 - stop)) == whole[stop:]


def test_reading_ahead_is_bounded():
    source = Remote(num_fetches=1)
    with feed(source, read_ahead=2) as batches:
        next(batches)
        time.sleep(0.2)  # it could fetch everything meanwhile
        entered = {shard for shard in next(batches).planned.entered[:, 2].tolist()}
        with source.lock:
            held = set(source.here)
    # 12 + 2 batches ahead of 4 + 4: 24 items, in at most four shards; two more ahead, and the empty one.
    assert entered and len(held) <= 4 + 2 + 1


def test_a_pause_stops_fetching_and_a_close_gives_it_up():
    begun, turns = threading.Event(), []

    def on_fetch(proceed):
        begun.set()
        while len(turns) < 1000:
            proceed()
            turns.append(time.monotonic())
            time.sleep(0.005)

    with feed(Remote(on_fetch=on_fetch)) as batches:
        batches.ready(timeout=0)
        assert begun.wait(10)
        batches.pause()
        time.sleep(0.05)
        before = len(turns)
        time.sleep(0.2)
        assert len(turns) - before <= 2  # a piece each that was on its way
        batches.resume()
        time.sleep(0.1)
        assert len(turns) > before + 2
    assert len(turns) < 1000  # leaving did not wait for the shards


def test_a_shard_that_cannot_be_fetched_is_told_where_its_batch_would_have_been():
    with feed(AtHand()) as batches:
        plan = list(itertools.islice(batches, 20))
    order = list(dict.fromkeys(np.concatenate([batch.planned.entered for batch in plan])[:, 2].tolist()))
    missing = order[-1]
    with pytest.raises(DataError, match=f"shard {missing}: HTTP 404"), feed(Remote(missing=missing)) as batches:
        got = [next(batches) for _ in range(40)]
        assert got


def test_a_length_is_asked_for_once_whatever_asks():
    class Counting(Remote):
        def num_examples(self, shard):
            with self.lock:
                self.events.append(("length", shard))
            return super().num_examples(shard)

    source = Counting()
    with feed(source) as batches:
        list(itertools.islice(batches, 60))  # three epochs
        batches.state(60)
    assert sorted(source.all("length")) == sorted(set(source.all("length")))


def test_evaluation_fetches_every_shard_once_in_order():
    source = Remote(num_fetches=1)
    settings = PipelineSettings(read_ahead=1, chunk_size=3)
    with once_through(source, [Stage("decode", lambda record: record)], batch_size=10, settings=settings) as batches:
        seen = [x for batch in batches for x in batch["x"][batch.weights > 0].tolist()]
    assert seen == [100 * shard + k for shard, length in enumerate(LENGTHS) for k in range(length)]
    assert source.all("fetch") == list(range(len(LENGTHS)))


def test_far_away_examples_are_read_side_by_side_when_their_batch_is_planned():
    """Sixteen readers overlap what a worker would have done one by one."""

    class Far(Remote):
        num_fetches, num_readers = 0, 16

        def read(self, shards, ks):
            time.sleep(0.02)
            return super().read(shards, ks)

    source = Far()
    with feed(source, num_threads=1) as batches:
        delivered = list(itertools.islice(batches, 20))
        batches.pause()
        reading = batches.meter.read()
    ordinals = {ordinal for batch in delivered for ordinal in batch.planned.ordinal.tolist()}
    assert len(ordinals) <= reading.num_reads <= len(ordinals) + 2 * 4
    assert len(source.all("read")) == reading.num_reads
    # The time in which anybody read is far less than the readers' times together: two batches are ahead.
    assert reading.transfer_seconds < 0.6 * reading.stage_seconds["read"]


def test_a_record_that_cannot_be_read_far_away_is_an_error_with_its_name():
    class Far(Remote):
        num_fetches, num_readers = 0, 4

        def read(self, shards, ks):
            if 3 in ks.tolist():
                raise DataError("connection reset")
            return super().read(shards, ks)

    with pytest.raises(ExampleError, match="stage 'read' failed on example 3 of shard .*connection reset"):
        with feed(Far()) as batches:
            list(itertools.islice(batches, 20))


def test_filling_the_buffer_needs_no_more_room_than_what_is_read_and_what_is_ahead():
    """Twenty shards fit into the buffer, two into the place where they are fetched to."""
    room = threading.BoundedSemaphore(2)

    class Many(Remote):
        num_shards, num_fetches = 20, 1

        def num_examples(self, shard):
            return 5

        def fetch(self, shard, *, proceed):
            while not room.acquire(timeout=0.01):
                proceed()
            return 100

        def drop(self, shard):
            room.release()

    source = Many()
    with Feed(
        source,
        [Stage("decode", lambda record: record)],
        batch_size=4,
        shuffle_buffer=96,
        seed=0,
        settings=PipelineSettings(read_ahead=4),
    ) as batches:
        assert len(list(itertools.islice(batches, 40))) == 40
