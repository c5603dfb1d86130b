"""Real threads over a source that counts: what is read, decoded and delivered, for every echo point."""

import contextlib
import itertools
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch

from dataecho.errors import SettingError
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import ExampleError, Stage
from dataecho.plan import keys as draws

SIZE = 40


class CountingSource(ArraySource):
    """Forty numbers; remembers what was read."""

    def __init__(self):
        super().__init__({"x": np.arange(SIZE, dtype=np.int64)})
        self.reads = Counter()

    def read(self, shards, ks):
        self.reads.update(ks.tolist())
        return super().read(shards, ks)


class Calls:
    """A pipeline decode -> crop -> color that counts its calls; crop and color draw random numbers."""

    def __init__(self, *, batched=False, slow=0.0):
        self.counts = Counter()
        self.batched, self.slow = batched, slow
        self._lock = threading.Lock()  # threads share it, and += is no single step

    def stages(self):
        return (
            Stage("decode", self._decode, batched=self.batched),
            Stage("crop", self._random("crop"), random=True, batched=self.batched),
            Stage("color", self._random("color"), random=True, batched=self.batched),
        )

    def _count(self, name, value):
        with self._lock:
            self.counts[name] += len(value) if self.batched else 1

    def _decode(self, record):
        time.sleep(self.slow)
        self._count("decode", record["x"])
        return {"x": record["x"], "seen": record["x"] * 10}

    def _random(self, name):
        def stage(example, keys):
            self._count(name, example["x"])
            number = draws.integers(keys, draw=0, high=1 << 30)
            return {**example, name: number}

        return stage


def feed(source, calls, *, echo_after, factor=1.0, num_threads=2, state=None, **settings):
    return Feed(
        source,
        calls.stages(),
        batch_size=8,
        shuffle_buffer=16,
        seed=0,
        echo_after=echo_after,
        factor=factor,
        settings=PipelineSettings(num_threads=num_threads, look_ahead=3, chunk_size=3),
        state=state,
        **settings,
    )


def delivered(batches):
    return [{name: values.tolist() for name, values in batch.arrays.items()} for batch in batches]


POINTS = [None, "read", "decode", "before_augmentation", "crop", "after_augmentation", "batch", "device"]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize(("echo_after", "factor"), [(None, 1.0), *itertools.product(POINTS[1:], [1.0, 2.0, 2.5, 8.0])])
def test_upstream_is_done_once_an_item_and_downstream_once_a_use(echo_after, factor, num_threads, batched):
    source, calls = CountingSource(), Calls(batched=batched)
    with feed(source, calls, echo_after=echo_after, factor=factor, num_threads=num_threads) as batches:
        first = list(itertools.islice(batches, 30))
        batches.pause()  # everything that was begun is finished
        reads, counts = sum(source.reads.values()), calls.counts
        # All that could have been planned: the delivered batches and the look-ahead.
        state = batches.state(30)
        ahead = 3
    uses = Counter()
    for batch in first:
        uses.update(zip(batch.planned.ordinal.tolist(), batch.planned.repeat.tolist(), strict=True))
    assert set(uses.values()) == {1}
    num_items = len({ordinal for ordinal, _ in uses})
    num_uses = 30 * 8
    if echo_after in (None, "batch", "device"):
        num_upstream, downstream = num_items, []
    else:
        num_upstream = num_items
        names = ["decode", "crop", "color"]
        point = {"read": 0, "decode": 1, "before_augmentation": 1, "crop": 2, "after_augmentation": 3}[echo_after]
        downstream = names[point:]
    extra = ahead * 8
    assert num_upstream <= reads <= num_upstream + extra
    for name in ("decode", "crop", "color"):
        expected = num_uses if name in downstream else num_upstream
        assert expected <= counts[name] <= expected + extra, name
    assert state["num_batches"] == 30


@pytest.mark.parametrize("factor", [2.0, 2.5])
@pytest.mark.parametrize("echo_after", POINTS[1:])
def test_threads_chunks_and_batching_of_stages_change_no_batch(echo_after, factor):
    runs = []
    for num_threads, batched in [(1, False), (4, False), (3, True)]:
        with feed(
            CountingSource(), Calls(batched=batched), echo_after=echo_after, factor=factor, num_threads=num_threads
        ) as batches:
            runs.append(delivered(itertools.islice(batches, 25)))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(
    ("echo_after", "frozen"),
    [("read", []), ("decode", []), ("crop", ["crop"]), ("color", ["crop", "color"]), ("batch", ["crop", "color"])],
)
def test_a_repeat_gets_new_randomness_after_the_echo_point_and_none_before(echo_after, frozen):
    seen = {}
    with feed(CountingSource(), Calls(), echo_after=echo_after, factor=4.0) as batches:
        for batch in itertools.islice(batches, 30):
            for row, ordinal in enumerate(batch.planned.ordinal.tolist()):
                seen.setdefault(ordinal, []).append({name: int(batch[name][row]) for name in ("crop", "color")})
    repeated = [uses for uses in seen.values() if len(uses) == 4]
    assert len(repeated) > 10
    for uses in repeated:
        for name in ("crop", "color"):
            assert len({use[name] for use in uses}) == (1 if name in frozen else 4)


def test_factor_1_equals_no_echo_batch_for_batch_at_every_point():
    with feed(CountingSource(), Calls(), echo_after=None) as batches:
        none = delivered(itertools.islice(batches, 20))
    for point in POINTS[1:]:
        with feed(CountingSource(), Calls(), echo_after=point) as batches:
            assert delivered(itertools.islice(batches, 20)) == none


def test_values_and_epochs_are_right():
    with feed(CountingSource(), Calls(), echo_after=None) as batches:
        rows = [x for batch in itertools.islice(batches, 50) for x in batch["x"].tolist()]
        for batch in itertools.islice(batches, 5):
            np.testing.assert_array_equal(batch["seen"], batch["x"] * 10)
            np.testing.assert_array_equal(batch["x"], batch.planned.k)
            np.testing.assert_array_equal(batch.weights, np.ones(8, np.float32))
    assert max(Counter(rows).values()) <= 12 and len(set(rows)) == SIZE


@pytest.mark.parametrize("echo_after", POINTS[1:])
def test_a_feed_continues_from_its_state_with_the_same_batches(echo_after):
    settings = {"echo_after": echo_after, "factor": 2.5}
    with feed(CountingSource(), Calls(), **settings) as batches:
        whole = delivered(itertools.islice(batches, 40))
    for stop in (0, 1, 7, 20):
        with feed(CountingSource(), Calls(), **settings) as batches:
            for _ in range(stop + 2):  # two more were fetched than trained
                next(batches)
            state = batches.state(stop)
        with feed(CountingSource(), Calls(), **settings, state=state) as batches:
            assert delivered(itertools.islice(batches, 40 - stop)) == whole[stop:]


def test_a_state_of_other_data_or_another_echo_point_is_refused():
    with feed(CountingSource(), Calls(), echo_after="decode", factor=2.0) as batches:
        state = batches.state(0)
    with pytest.raises(SettingError, match="echo_after=crop.*Allowed: decode"):
        feed(CountingSource(), Calls(), echo_after="crop", factor=2.0, state=state)
    other = ArraySource({"x": np.arange(SIZE, dtype=np.int64) + 1})
    with pytest.raises(SettingError, match=f"source={other.digest}"):
        feed(other, Calls(), echo_after="decode", factor=2.0, state=state)


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize("echo_after", [None, "decode", "batch"])
def test_an_error_names_the_example_and_comes_at_its_batch(echo_after, num_threads):
    calls = Calls()

    def fails(example):
        if example["x"] == 13:
            raise KeyError("no such colour")
        return example

    stages = (calls.stages()[0], Stage("check", fails))
    settings = PipelineSettings(num_threads=num_threads, chunk_size=3)
    factor = 1.0 if echo_after is None else 2.0
    expected = 0
    with Feed(
        ArraySource({"x": np.arange(SIZE)}),
        calls.stages()[:1],
        batch_size=8,
        shuffle_buffer=16,
        seed=0,
        echo_after=echo_after,
        factor=factor,
    ) as good:
        while 13 not in next(good)["x"]:
            expected += 1
    with Feed(
        ArraySource({"x": np.arange(SIZE)}),
        stages,
        batch_size=8,
        shuffle_buffer=16,
        seed=0,
        echo_after=echo_after,
        factor=factor,
        settings=settings,
    ) as batches:
        got = 0
        with pytest.raises(ExampleError, match=r"stage 'check' failed on example 13 of shard 0 \(epoch 0\): KeyError"):
            for _ in batches:
                got += 1
        assert got == expected
        with pytest.raises(ExampleError, match="example 13"):  # not an end: an end would be a success
            next(batches)


def test_a_batched_stage_that_fails_names_the_one_example():
    def fails(chunk):
        if (chunk["x"] == 13).any():
            raise ValueError("thirteen")
        return chunk

    with (
        Feed(
            CountingSource(), [Stage("check", fails, batched=True)], batch_size=8, shuffle_buffer=0, seed=0
        ) as batches,
        pytest.raises(ExampleError, match="example 13 of shard 0 .*thirteen"),
    ):
        list(itertools.islice(batches, 10))


@pytest.mark.parametrize("is_batched", [False, True])
def test_a_later_stage_may_write_into_what_it_is_given_and_the_stored_result_stays(is_batched):
    """Through torch, which does not know that numpy's arrays are read-only."""

    def halves_in_place(example):
        values = torch.from_numpy(example["x"][..., 1:])
        values.div_(2)
        return {"k": example["k"], "x": values.numpy()}

    source = ArraySource({"k": np.arange(SIZE), "x": np.arange(SIZE * 3.0).reshape(SIZE, 3)})
    stages = [
        Stage("decode", lambda example: {**example, "x": example["x"] + 1}),
        Stage("halve", halves_in_place, batched=is_batched),
    ]
    with Feed(source, stages, batch_size=8, shuffle_buffer=16, seed=0, echo_after="decode", factor=4) as batches:
        for batch in itertools.islice(batches, 20):
            np.testing.assert_array_equal(batch["x"], (batch["k"][:, None] * 3 + [2, 3]) / 2)


def test_a_kept_object_of_another_library_is_a_copy_for_each_use():
    def adds_in_place(example):
        return {"x": example["x"].add_(1).numpy()}

    source = ArraySource({"x": np.zeros((SIZE, 3))})
    stages = [Stage("decode", lambda example: {"x": torch.from_numpy(example["x"])}), Stage("add", adds_in_place)]
    with Feed(source, stages, batch_size=8, shuffle_buffer=16, seed=0, echo_after="decode", factor=4) as batches:
        assert all((batch["x"] == 1).all() for batch in itertools.islice(batches, 20))


def test_a_stage_that_promises_not_to_write_is_given_the_stored_result_itself():
    seen = []

    def looks(example):
        seen.append(example["x"])
        return example

    source = ArraySource({"x": np.zeros((SIZE, 3))})
    stages = [Stage("decode", lambda example: example), Stage("look", looks, mutates_input=False)]
    with Feed(source, stages, batch_size=8, shuffle_buffer=16, seed=0, echo_after="decode", factor=4) as batches:
        list(itertools.islice(batches, 20))
    assert len({values.ctypes.data for values in seen}) < len(seen) / 2


def test_a_batched_stage_that_fails_after_writing_is_tried_again_on_what_it_was_given():
    def fails_in_place(chunk):
        chunk["x"] += 1
        if len(chunk["x"]) > 1:
            raise ValueError("not several at once")
        return chunk

    stages = [Stage("fail", fails_in_place, batched=True)]
    source = ArraySource({"x": np.arange(SIZE)})
    with once_through(source, stages, batch_size=8) as batches, pytest.raises(ExampleError, match="together"):
        list(batches)


def test_the_source_is_never_written_to():
    data = np.arange(SIZE * 3).reshape(SIZE, 3)
    before = data.copy()

    def spoils(chunk):
        chunk["x"][:] = 0
        return chunk

    with Feed(
        ArraySource({"x": data}), [Stage("spoil", spoils, batched=True)], batch_size=8, shuffle_buffer=0, seed=0
    ) as batches:
        list(itertools.islice(batches, 5))
    np.testing.assert_array_equal(data, before)


def test_examples_of_different_shapes_are_refused_with_the_field():
    stages = [Stage("decode", lambda record: {"x": np.zeros(2 + int(record["x"] == 13))})]
    with (
        Feed(CountingSource(), stages, batch_size=8, shuffle_buffer=0, seed=0) as batches,
        pytest.raises(ExampleError, match="stage 'batch' failed"),
    ):
        list(itertools.islice(batches, 10))


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dataecho-worker")]


@pytest.mark.parametrize("end", ["exception", "break", "interrupt"])
def test_no_thread_outlives_the_feed(end):
    ends = {"exception": RuntimeError, "interrupt": KeyboardInterrupt}
    with (
        contextlib.suppress(*ends.values()),
        feed(CountingSource(), Calls(slow=0.001), echo_after="decode", factor=2.0, num_threads=4) as batches,
    ):
        for number, _ in enumerate(batches):
            assert len(worker_threads()) == 4
            if number == 3:
                if end in ends:
                    raise ends[end]
                break
    assert worker_threads() == []


def test_closing_twice_and_leaving_at_once_are_harmless():
    batches = feed(CountingSource(), Calls(slow=0.01), echo_after="batch", factor=2.0)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_look_ahead_is_bounded_and_a_pause_gives_no_free_input():
    source, calls = CountingSource(), Calls()
    with feed(source, calls, echo_after=None) as batches:
        next(batches)
        batches.pause()
        before = sum(source.reads.values())
        assert before <= 4 * 8  # one delivered, three ahead
        time.sleep(0.05)
        assert sum(source.reads.values()) == before
        batches.resume()
        list(itertools.islice(batches, 5))
        batches.pause()
        assert 6 * 8 <= sum(source.reads.values()) <= 9 * 8


def test_a_released_batch_is_used_again_and_one_that_is_kept_is_not():
    with feed(CountingSource(), Calls(), echo_after=None) as batches:
        kept = [next(batches) for _ in range(10)]
        addresses = {batch["x"].ctypes.data for batch in kept}
        assert len(addresses) == 10
        copies = [batch["x"].copy() for batch in kept]
        for batch in kept[5:]:
            batch.release()
            batch.release()
        later = [next(batches) for _ in range(10)]
        assert addresses & {batch["x"].ctypes.data for batch in later}
        assert len({batch["x"].ctypes.data for batch in later}) == 10
        for batch, copy in zip(kept[:5], copies[:5], strict=True):
            np.testing.assert_array_equal(batch["x"], copy)


def test_repeats_of_a_batch_are_copies_of_their_own_unless_it_is_resident():
    for point, shared in [("batch", False), ("device", True)]:
        with feed(CountingSource(), Calls(), echo_after=point, factor=3.0) as batches:
            first, second, third = (next(batches) for _ in range(3))
            np.testing.assert_array_equal(first["x"], second["x"])
            assert np.shares_memory(first["x"], second["x"]) == shared
            if not shared:
                first["x"][:] = -1
                assert (third["x"] >= 0).all()


def test_stored_results_are_counted_in_bytes_and_gone_after_their_last_use():
    source = ArraySource({"x": np.zeros((SIZE, 100), np.float32)})
    with Feed(
        source,
        [Stage("decode", lambda example: example)],
        batch_size=8,
        shuffle_buffer=16,
        seed=0,
        echo_after="decode",
        factor=4.0,
    ) as batches:
        list(itertools.islice(batches, 100))
        batches.pause()
        reading = batches.meter.read()
    assert reading.stored_bytes % 400 == 0
    assert 0 < reading.stored_bytes <= reading.max_stored_bytes <= (16 + 3 * 8) * 400


def test_evaluation_sees_every_example_once_in_order_with_a_padded_last_batch():
    source = CountingSource()
    stages = [Stage("decode", lambda example: example)]
    with once_through(source, stages, batch_size=16) as batches:
        seen = list(batches)
    assert [batch["x"].tolist() for batch in seen] == [
        list(range(16)),
        list(range(16, 32)),
        [*range(32, 40)] + [32] * 8,
    ]
    assert [batch.weights.sum() for batch in seen] == [16, 16, 8]
    assert source.reads == Counter(range(SIZE))


def test_evaluation_refuses_random_stages():
    with pytest.raises(SettingError, match="eval_stages=crop, color"):
        once_through(CountingSource(), Calls().stages(), batch_size=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"echo_after": None, "factor": 2.0}, "factor=2 .*there is no echo"),
        ({"echo_after": "colour"}, "echo.after=colour.*read, decode, crop, color, batch, device"),
        ({"echo_after": "example"}, "echo=example.*before_augmentation or after_augmentation"),
        ({"echo_after": "decode", "batch_shuffle_buffer": 2}, "echo.shuffle_buffer=2"),
    ],
)
def test_conflicting_settings_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        feed(CountingSource(), Calls(), **settings)
    assert worker_threads() == []


def test_without_augmentation_the_long_names_are_refused_and_example_is_the_last_stage():
    stages = [Stage("decode", lambda example: example)]
    for name in ("before_augmentation", "after_augmentation"):
        with pytest.raises(SettingError, match=f"echo={name}.*use echo=example"):
            Feed(CountingSource(), stages, batch_size=8, shuffle_buffer=16, seed=0, echo_after=name)
    with Feed(CountingSource(), stages, batch_size=8, shuffle_buffer=16, seed=0, echo_after="example") as batches:
        assert batches.echo.stage == "decode"


def test_a_batch_larger_than_the_source_is_refused():
    with pytest.raises(SettingError, match="batch_size=64.*at most the 40 examples"):
        Feed(CountingSource(), [], batch_size=64, shuffle_buffer=128, seed=0)


def test_a_source_that_cannot_be_opened_is_told_in_place_of_its_batch():
    class Broken(CountingSource):
        num_shards = 2

        def num_examples(self, shard):
            raise OSError("shard gone")

    with (
        Feed(Broken(), [], batch_size=8, shuffle_buffer=0, seed=0) as batches,
        pytest.raises(OSError, match="shard gone"),
    ):
        next(batches)


@pytest.mark.parametrize("num_threads", [1, 4])
def test_a_stage_may_put_something_else_into_the_dictionary_it_was_given(num_threads):
    def adds_one(example, key):
        example["x"] = example["x"] + 1  # the array stays as it was; only this use's dictionary changes
        return example

    source = ArraySource({"x": np.zeros(SIZE, np.int64)})
    stages = [Stage("decode", lambda example: example), Stage("add", adds_one, random=True)]
    settings = PipelineSettings(num_threads=num_threads, chunk_size=3)
    with Feed(
        source, stages, batch_size=8, shuffle_buffer=16, seed=0, echo_after="decode", factor=4.0, settings=settings
    ) as batches:
        assert {x for batch in itertools.islice(batches, 40) for x in batch["x"].tolist()} == {1}


def test_a_state_can_be_had_of_what_was_delivered_and_only_forwards():
    with feed(CountingSource(), Calls(), echo_after=None) as batches:
        list(itertools.islice(batches, 5))
        assert batches.state(3)["num_batches"] == 3
        for wrong in (2, 6):
            with pytest.raises(ValueError, match=f"num_batches={wrong}: a state can be had from 3 .* to 5"):
                batches.state(wrong)
        assert batches.state(5)["num_batches"] == 5


@pytest.mark.parametrize(("result", "told"), [(None, "NoneType"), (3, "int")])
def test_a_stage_that_gives_no_dictionary_is_named_with_its_example(result, told):
    with (
        Feed(CountingSource(), [Stage("decode", lambda _: result)], batch_size=8, shuffle_buffer=0, seed=0) as batches,
        pytest.raises(ExampleError, match=f"example .* of shard 0 .*must be a dictionary of arrays here, not {told}"),
    ):
        next(batches)


def test_a_source_that_gives_too_few_records_is_told():
    class Short(CountingSource):
        def read(self, shards, ks):
            return super().read(shards[1:], ks[1:])

    with (
        Feed(Short(), [], batch_size=8, shuffle_buffer=0, seed=0) as batches,
        pytest.raises(ExampleError, match="stage 'read' failed .*8 records were asked for, 7 came"),
    ):
        next(batches)
