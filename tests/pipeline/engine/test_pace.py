"""How much is worked on at a time, and by whom: nothing that a batch could show."""

import itertools
import signal
import threading
import time

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import ExampleError, Stage
from dataecho.plan import keys as draws

SIZE, BATCH = 40, 8


class Source(ArraySource):
    """Forty numbers; remembers how many were read at once."""

    is_in_memory = True

    def __init__(self):
        super().__init__({"x": np.arange(SIZE, dtype=np.int64)})
        self.reads = []

    def read(self, shards, ks):
        self.reads.append(len(ks))
        return super().read(shards, ks)


def double(chunk):
    return {"x": chunk["x"], "double": 2 * chunk["x"]}


def shift(chunk, keys):
    return {**chunk, "shift": draws.integers(keys, draw=0, high=1 << 30)}


STAGES = (Stage("double", double, batched=True), Stage("shift", shift, random=True, batched=True))


def feed(source, stages=STAGES, *, num_threads=2, look_ahead=12, chunk_size="auto", share=0.0, loop_helps=True, **echo):
    settings = PipelineSettings(
        num_threads=num_threads,
        look_ahead=look_ahead,
        chunk_size=chunk_size,
        max_skipped_share=share,
        loop_helps=loop_helps,
    )
    return Feed(source, stages, batch_size=BATCH, shuffle_buffer=16, seed=0, settings=settings, **echo)


def delivered(batches, count=40):
    return [
        {**{name: values.tolist() for name, values in batch.arrays.items()}, "ordinal": batch.planned.ordinal.tolist()}
        for batch in itertools.islice(batches, count)
    ]


def test_a_number_is_the_size_of_every_piece_which_are_about_equal():
    pace = Pace(3, most_batches=5)
    assert pace.cut(0) == []
    assert pace.cut(3) == [slice(0, 3)]
    assert pace.cut(8) == [slice(0, 2), slice(2, 5), slice(5, 8)]
    pace.done(10, 1e-6)
    assert pace.cut(4) == [slice(0, 2), slice(2, 4)]
    assert [pace.num_batches(size) for size in (1, 3, 4)] == [2, 1, 0]


def test_auto_is_what_takes_eight_milliseconds_and_sixteen_at_least():
    pace = Pace("auto", most_batches=5)
    assert pace.cut(16) == [slice(0, 16)] and len(pace.cut(17)) == 2
    pace.done(10, 10 * 8e-5)
    assert len(pace.cut(100)) == 1 and len(pace.cut(101)) == 2
    assert pace.num_batches(64) == 1 and pace.num_batches(32) == 2 and pace.num_batches(10) == 4
    for _ in range(200):
        pace.done(10, 1.0)
    assert len(pace.cut(16)) == 1 and len(pace.cut(17)) == 2
    pace.done(0, 1.0)


def test_auto_leaves_a_piece_for_everybody_where_it_has_sixteen_uses_for_each():
    pace = Pace("auto", most_batches=5, least_pieces=3)
    pace.done(10, 10 * 8e-5)
    assert [len(pace.cut(size)) for size in (15, 31, 32, 48, 96, 301)] == [1, 1, 2, 3, 3, 4]
    assert len(Pace(100, most_batches=5, least_pieces=3).cut(96)) == 1  # a number is a number


@pytest.mark.parametrize("size", [0, -1, "automatic", 1.5, None])
def test_other_sizes_are_refused(size):
    with pytest.raises(SettingError, match=r"pipeline.chunk_size=.* Allowed: auto or whole numbers >= 1"):
        PipelineSettings(chunk_size=size)


@pytest.mark.parametrize("echo", [{}, {"echo_after": "batch", "factor": 1.5}, {"echo_after": "double", "factor": 2.5}])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_pieces_of_several_batches_change_no_batch(num_threads, echo):
    with feed(Source(), chunk_size=3, num_threads=num_threads, **echo) as batches:
        expected = delivered(batches)
    for chunk_size, look_ahead in [(BATCH, 1), (5 * BATCH, 1), (5 * BATCH, 12), (1000, 40), ("auto", 12)]:
        source = Source()
        settings = {"chunk_size": chunk_size, "look_ahead": look_ahead, "num_threads": num_threads}
        with feed(source, **settings, **echo) as batches:
            assert delivered(batches) == expected
        if not echo and chunk_size == 1000:
            assert max(source.reads) == {1: 16, 3: 8}[num_threads] * BATCH  # of 40 // (num_threads + 1)
            assert sum(source.reads) <= (40 + look_ahead) * BATCH  # nothing was made twice


def test_memory_of_batches_made_together_is_used_again_when_the_last_of_them_is_released():
    with feed(Source(), chunk_size=4 * BATCH, num_threads=1) as batches:
        blocks = {}
        for batch in itertools.islice(batches, 20):
            blocks.setdefault(id(batch["x"].base), []).append(batch)
        *early, last = next(block for block in blocks.values() if len(block) == 4)
        values = last["x"].copy()
        places = {batch["x"].ctypes.data for batch in (*early, last)}
        assert len(places) == 4
        for batch in early:
            batch.release()
            batch.release()
        later = list(itertools.islice(batches, 20))
        assert not places & {batch["x"].ctypes.data for batch in later}
        np.testing.assert_array_equal(last["x"], values)
        last.release()
        assert places <= {batch["x"].ctypes.data for batch in itertools.islice(batches, 20)}
    assert later


def test_a_last_batch_that_is_padded_may_be_made_with_others():
    source = Source()
    settings = PipelineSettings(chunk_size=64, look_ahead=9)
    with once_through(source, [STAGES[0]], batch_size=16, settings=settings) as batches:
        seen = [(batch["double"].tolist(), batch.weights.sum()) for batch in batches]
    expected = [list(range(0, 32, 2)), list(range(32, 64, 2)), [*range(64, 80, 2)] + [64] * 8]
    assert seen == list(zip(expected, [16, 16, 8], strict=True))
    assert max(source.reads) > 16


@pytest.mark.parametrize("chunk_size", [BATCH, 5 * BATCH])
def test_an_error_comes_at_its_batch_even_if_others_were_made_with_it(chunk_size):
    with feed(Source()) as batches:
        seen = [batch["x"] for batch in delivered(batches)]
    first = {x: next(number for number, xs in enumerate(seen) if x in xs) for x in range(SIZE)}
    wrong = max(first, key=first.get)

    def fails(chunk):
        """On many, and on none alone: so that the whole piece fails."""
        if len(chunk["x"]) > 1 and wrong in chunk["x"]:
            raise ValueError("a wrong one")
        return chunk

    with feed(Source(), (Stage("check", fails, batched=True),), chunk_size=chunk_size) as batches:
        got = 0
        with pytest.raises(ExampleError, match="a wrong one"):
            for _ in batches:
                got += 1
    assert got == first[wrong] >= 3


def breaks_at_some(example):
    if example["x"] in (3, 17):
        raise ValueError("broken")
    return example


def test_broken_examples_are_told_with_their_batch():
    stages = (Stage("check", breaks_at_some), *STAGES)
    runs = []
    for chunk_size in (3, 5 * BATCH):
        with feed(Source(), stages, chunk_size=chunk_size, share=0.1) as batches:
            runs.append(
                [
                    (batch["x"].tolist(), batch.weights.tolist(), batch.skipped)
                    for batch in itertools.islice(batches, 20)
                ]
            )
    assert runs[0] == runs[1]
    assert sum(len(skipped) for _, _, skipped in runs[0]) >= 4


class Busy:
    """A stage that takes some ``seconds`` for a chunk, and knows how many threads were in it at once."""

    def __init__(self, seconds=0.005):
        self._seconds = seconds
        self.most = self._inside = 0
        self._lock = threading.Lock()

    def __call__(self, chunk):
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        time.sleep(self._seconds)
        with self._lock:
            self._inside -= 1
        return chunk


def test_one_thread_works_while_half_of_the_look_ahead_is_finished_and_all_when_it_is_not():
    busy = Busy()
    stages = (Stage("busy", busy, batched=True),)
    with feed(Source(), stages, num_threads=3, look_ahead=8, chunk_size=2, loop_helps=False) as batches:
        list(itertools.islice(batches, 20))
        assert busy.most == 3
        time.sleep(0.5)  # everything ahead is finished
        busy.most = 0
        for _ in range(10):
            next(batches)
            time.sleep(0.1)
        assert busy.most == 1
        list(itertools.islice(batches, 20))
        assert busy.most == 3


def test_arrays_are_in_memory_and_what_reads_in_its_own_way_is_not_known_to_be():
    class Slow(ArraySource):
        def read(self, shards, ks):
            return super().read(shards, ks)

    assert ArraySource({"x": np.arange(3)}).is_in_memory
    assert not Slow({"x": np.arange(3)}).is_in_memory


class Disk(Source):
    """No read is known to be prompt; remembers who read."""

    is_in_memory = False

    def __init__(self):
        super().__init__()
        self.readers = set()

    def read(self, shards, ks):
        self.readers.add(threading.current_thread())
        return super().read(shards, ks)


class Remote(Disk):
    """Read by a thread of its own, when a batch is planned."""

    num_readers = 1


@pytest.mark.parametrize(
    ("source", "seconds", "num_batches", "most"),
    [
        (Source, 0.001, 80, 2),  # the one thread, and the loop while it waits
        (Source, 0.1, 6, 1),  # a piece is long: others may be done sooner with what the loop waits for
        (Disk, 0.001, 80, 2),  # repeats of what has been read
        (Remote, 0.001, 80, 2),
    ],
)
def test_who_waits_does_short_pieces_but_reads_nothing_except_memory(source, seconds, num_batches, most):
    busy, data = Busy(seconds), source()
    stages = (*STAGES, Stage("busy", busy, batched=True))
    with feed(data, stages, num_threads=1, look_ahead=4, chunk_size=2, echo_after="double", factor=3) as batches:
        found = delivered(batches, num_batches)
    assert busy.most == most
    assert threading.main_thread() not in getattr(data, "readers", set())
    with feed(Source(), num_threads=2, echo_after="double", factor=3) as batches:
        assert found == delivered(batches, num_batches)


@pytest.mark.parametrize("num_threads", [0, 1])
def test_ctrl_c_while_the_caller_works_is_raised_at_once_and_loses_nothing(num_threads):
    armed = threading.Event()

    def interrupted(chunk):
        if armed.is_set() and threading.current_thread() is threading.main_thread():
            armed.clear()
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.001)
        return chunk

    stages = (*STAGES, Stage("interrupted", interrupted, batched=True))
    echo = {"echo_after": "double", "factor": 3}
    with feed(Source(), stages, num_threads=num_threads, look_ahead=2, chunk_size=2, **echo) as batches:
        expected = delivered(batches, 60)
    with feed(Source(), stages, num_threads=num_threads, look_ahead=2, chunk_size=2, **echo) as batches:
        found, num_interrupts = [], 0
        while len(found) < 60:
            if len(found) in (10, 25, 40) and num_interrupts < len(found) // 10:
                armed.set()
            try:
                found += delivered(batches, 1)
            except KeyboardInterrupt:
                num_interrupts += 1
    assert num_interrupts >= 1
    assert found == expected
