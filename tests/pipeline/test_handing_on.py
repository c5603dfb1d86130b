"""Batches that are what the last stage made, not a copy of it: the same values, from the first batch on."""

import itertools
from functools import partial

import numpy as np
import pytest

from dataecho.pipeline.batch import ALIGNMENT, MAX_HANDED_ON, new_arrays
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage

SIZE, BATCH, LENGTH = 40, 8, 5
TOKENS = np.arange(SIZE * LENGTH, dtype=np.int64).reshape(SIZE, LENGTH)


class Views(ArraySource):
    """Records that are the source's own memory, as those of any source might be."""

    def read(self, shards, ks):
        return {name: array[ks] for name, array in self._fields.items()}


def shift(chunk):
    return {"inputs": chunk["row"][:, :-1], "targets": chunk["row"][:, 1:]}


SHIFT = (Stage("shift", shift, batched=True),)


def feed(source=None, stages=SHIFT, *, batch_size=BATCH, echo=None, **settings):
    return Feed(
        source or ArraySource({"row": TOKENS}),
        stages,
        batch_size=batch_size,
        shuffle_buffer=16,
        seed=0,
        settings=PipelineSettings(**{"num_threads": 2, "look_ahead": 12, **settings}),
        **(echo or {}),
    )


def delivered(batches, count=30):
    with batches:
        return [dict(batch.arrays) for batch in itertools.islice(batches, count)]


def test_every_batch_is_what_the_stage_made_and_has_the_values_of_a_copy():
    handed_on, copied = delivered(feed()), delivered(feed(chunk_size=BATCH))
    for batch, copy in zip(handed_on, copied, strict=True):
        assert np.shares_memory(batch["inputs"], batch["targets"])
        assert not np.shares_memory(copy["inputs"], copy["targets"])
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(batch[name], copy[name])
            assert copy[name].flags.c_contiguous


def test_whoever_does_not_want_them_gets_rows_of_their_own_that_begin_where_frameworks_like_it():
    for batch, copy in zip(delivered(feed()), delivered(feed(hands_on=False)), strict=True):
        assert not np.shares_memory(copy["inputs"], copy["targets"])
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(batch[name], copy[name])
            assert copy[name].flags.c_contiguous
            assert copy[name].ctypes.data % ALIGNMENT == 0


def test_the_source_and_other_batches_are_out_of_reach():
    with feed() as batches:
        for batch in itertools.islice(batches, 30):
            np.testing.assert_array_equal(batch["inputs"], TOKENS[batch.planned.k, :-1])
            batch["inputs"][...] = -1
    np.testing.assert_array_equal(TOKENS, np.arange(SIZE * LENGTH).reshape(SIZE, LENGTH))


class Stages:
    """One stage, which remembers what it made."""

    def __init__(self, function, *, batched=True):
        self._function, self.made = function, []
        self.stages = (Stage("stage", self._run, batched=batched),)

    def _run(self, chunk):
        result = self._function(chunk)
        self.made.append(result["x"])
        return result

    def is_maker_of(self, values):
        return any(np.shares_memory(values, made) for made in self.made)


def new(chunk):
    return {"x": chunk["row"] + 1}


WHY_NOT = {
    "it runs backwards": {"function": lambda chunk: {"x": chunk["row"][:, ::-1]}},
    "it cannot be written to": {"function": lambda chunk: {"x": np.broadcast_to(7, chunk["row"].shape)}},
    "it keeps more memory alive": {"function": lambda chunk: {"x": chunk["row"][:, 1:]}},
    "it is not numpy's memory": {
        "function": lambda chunk: {"x": np.frombuffer(bytearray(len(chunk["row"])), np.uint8)}
    },
    "it is large": {
        "function": lambda chunk: {"x": np.zeros((len(chunk["row"]), MAX_HANDED_ON // BATCH + 1), np.uint8)}
    },
    "pieces have a size": {"chunk_size": BATCH},
    "there is not enough look-ahead for whole batches": {"look_ahead": 3},
    "examples are made one by one": {"batched": False},
    "the source has promised nothing": {"source": Views({"row": TOKENS})},
    "results are kept": {"echo": {"echo_after": "stage", "factor": 2.0}},
}


def test_a_new_array_is_handed_on():
    stages = Stages(new)
    assert all(stages.is_maker_of(batch["x"]) for batch in delivered(feed(stages=stages.stages)))


@pytest.mark.parametrize("why", WHY_NOT)
def test_what_is_not_handed_on_is_copied_into_rows_of_its_own(why):
    settings = dict(WHY_NOT[why])
    stages = Stages(settings.pop("function", new), batched=settings.pop("batched", True))
    for batch in delivered(feed(stages=stages.stages, **settings), count=10):
        assert not stages.is_maker_of(batch["x"])
        assert batch["x"].flags.c_contiguous and batch["x"].flags.writeable


def test_what_is_padded_or_broken_is_filled_in_a_copy():
    def fail_on_3(chunk):
        if (chunk["row"][:, 0] == 3 * LENGTH).any():
            raise ValueError("three")
        return new(chunk)

    def run(function, batches):
        stages = Stages(function)
        with batches(stages.stages) as executor:
            return [
                (batch["x"][:, 0].tolist(), batch.weights.tolist(), stages.is_maker_of(batch["x"]))
                for batch in executor
            ]

    def evaluation(stages, size=16, share=0.0):
        settings = PipelineSettings(num_threads=1, look_ahead=2, max_skipped_share=share)  # made one by one
        return once_through(ArraySource({"row": TOKENS}), stages, batch_size=size, settings=settings)

    column = (TOKENS[:, 0] + 1).tolist()
    assert run(new, evaluation) == [
        (column[:16], [1.0] * 16, True),
        (column[16:32], [1.0] * 16, True),
        (column[32:] + column[32:33] * 8, [1.0] * 8 + [0.0] * 8, False),
    ]
    first, *others = run(fail_on_3, partial(evaluation, size=20, share=0.5))
    assert first == ([*column[:3], column[0], *column[4:20]], [1.0] * 3 + [0.0] + [1.0] * 16, False)
    assert others == [(column[20:], [1.0] * 20, True)]


def test_the_bytes_of_what_is_handed_on_are_counted_until_it_is_released():
    with feed(num_threads=1) as batches:
        for batch in itertools.islice(batches, 200):
            batch.release()
        most = batches.meter.read().batch_bytes
        row_bytes = 2 * (LENGTH - 1) * TOKENS.itemsize
        assert BATCH * row_bytes <= most <= 2 * (12 + 1) * BATCH * row_bytes
        kept = list(itertools.islice(batches, 100))
        assert batches.meter.read().batch_bytes >= len(kept) * BATCH * row_bytes


def test_rows_of_a_pool_begin_where_frameworks_like_them():
    layout = {
        "bytes": ((3,), np.dtype(np.uint8)),
        "reals": ((2, 2), np.dtype(np.float64)),
        "none": ((0,), np.dtype("i4")),
    }
    arrays = new_arrays(layout, 5)
    assert {name: (values.shape, values.dtype) for name, values in arrays.items()} == {
        "bytes": ((5, 3), np.uint8),
        "reals": ((5, 2, 2), np.float64),
        "none": ((5, 0), np.int32),
    }
    assert all(arrays[name].ctypes.data % 64 == 0 and arrays[name].flags.c_contiguous for name in ("bytes", "reals"))
    arrays["reals"][...] = 1.5
    arrays["bytes"][...] = 7
    assert arrays["reals"].sum() == 30 and arrays["bytes"].sum() == 105
