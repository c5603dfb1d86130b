"""Broken examples: an error that names them, or rows of weight 0 that are counted and named."""

import itertools

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.batch import Skipped
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Broken, ExampleError, Stage

SIZE = 40
BROKEN = {3, 17, 18}


class SomeBroken(ArraySource):
    """Numbers, of which one cannot be read."""

    def __init__(self):
        super().__init__({"x": np.arange(SIZE, dtype=np.int64)})

    def name(self, shard, k):
        return f"number {k}"

    def read(self, shards, ks):
        return [Broken("no such file") if k == 3 else {"x": np.int64(k)} for k in ks.tolist()]


def check(example):
    if example["x"] in BROKEN:
        raise ValueError(f"{example['x']} is corrupt")
    return {"x": example["x"]}


def check_all(chunk):
    if set(chunk["x"].tolist()) & BROKEN:
        raise ValueError(f"{min(set(chunk['x'].tolist()) & BROKEN)} is corrupt")
    return chunk


def double(chunk):
    return {"x": chunk["x"], "double": 2 * chunk["x"]}


def feed(*, share, batched=False, num_threads=2, **echo):
    stages = [
        Stage("check", check_all if batched else check, batched=batched),
        Stage("double", double, batched=True),
    ]
    settings = PipelineSettings(num_threads=num_threads, look_ahead=3, chunk_size=3, max_skipped_share=share)
    return Feed(SomeBroken(), stages, batch_size=8, shuffle_buffer=16, seed=0, settings=settings, **echo)


ECHOES = {
    "none": {},
    "read": {"echo_after": "read", "factor": 2.5},
    "check": {"echo_after": "check", "factor": 3.0},
    "double": {"echo_after": "double", "factor": 2.0},
    "batch": {"echo_after": "batch", "factor": 2.5},
    "device": {"echo_after": "device", "factor": 2.0},
}
every_echo = pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())


@pytest.mark.parametrize("batched", [False, True])
@every_echo
def test_a_broken_example_becomes_rows_of_weight_0_and_a_copy_of_a_good_one(echo, batched):
    with feed(share=0.1, batched=batched, **echo) as batches:
        delivered = list(itertools.islice(batches, 40))
    for batch in delivered:
        ks = batch.planned.k
        failed = np.isin(ks, list(BROKEN))
        assert batch.weights.tolist() == (~failed).astype(float).tolist()
        np.testing.assert_array_equal(batch["x"][~failed], ks[~failed])
        np.testing.assert_array_equal(batch["double"], 2 * batch["x"])
        assert not set(batch["x"].tolist()) & BROKEN
        first = batch.planned.repeat == 0
        assert batch.num_delivered == 8 - failed.sum()
        assert batch.num_fresh == (first & ~failed).sum()
        assert [example.name for example in batch.skipped] == [
            f"number {k} (epoch {epoch})"
            for k, epoch in zip(ks[first & failed], batch.planned.epoch[first & failed], strict=True)
        ]
    skipped = {example for batch in delivered for example in batch.skipped}
    assert Skipped("number 3 (epoch 0)", "read", "no such file") in skipped
    assert Skipped("number 17 (epoch 0)", "check", "ValueError: 17 is corrupt") in skipped
    everything = sum(batch.num_delivered + (batch.weights == 0).sum() for batch in delivered)
    assert everything == 40 * 8


@every_echo
def test_nothing_is_tolerated_by_default(echo):
    message = r"stage '(read|check)' failed on number \d+ \(epoch 0\): .*pipeline.max_skipped_share, now 0"
    with pytest.raises(ExampleError, match=message), feed(share=0.0, **echo) as batches:
        list(itertools.islice(batches, 40))


def test_beyond_the_share_is_an_error_with_the_numbers():
    # Three of forty in every epoch, and at most 2 % of the first thousand: the 21st is too many.
    with pytest.raises(ExampleError, match=r"number \d+ .*21 of 2\d\d examples .*max_skipped_share=0.02"):
        with feed(share=0.02) as batches:
            list(batches)


def test_a_batch_without_a_good_example_is_an_error():
    def fail(example):
        raise ValueError("all corrupt")

    settings = PipelineSettings(max_skipped_share=0.9)
    source = ArraySource({"x": np.arange(SIZE)})
    with pytest.raises(ExampleError, match="no example of a whole batch is good; ValueError: all corrupt"):
        with Feed(source, [Stage("fail", fail)], batch_size=8, shuffle_buffer=8, seed=0, settings=settings) as batches:
            next(batches)


def test_evaluation_leaves_out_what_is_broken():
    settings = PipelineSettings(max_skipped_share=0.1)
    with once_through(SomeBroken(), [Stage("check", check)], batch_size=16, settings=settings) as batches:
        seen = [x for batch in batches for x in batch["x"][batch.weights > 0].tolist()]
    assert seen == [number for number in range(SIZE) if number not in BROKEN]


def test_a_mistake_that_concerns_no_single_example_is_never_tolerated():
    def shorter(chunk):
        return {"x": chunk["x"][:-1]} if len(chunk["x"]) > 1 else chunk

    settings = PipelineSettings(max_skipped_share=0.9, chunk_size=4)
    source = ArraySource({"x": np.arange(SIZE)})
    stages = [Stage("shorter", shorter, batched=True)]
    with pytest.raises(ExampleError, match="and the 3 after it, together: ValueError: a batched stage must keep"):
        with Feed(source, stages, batch_size=8, shuffle_buffer=8, seed=0, settings=settings) as batches:
            next(batches)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(
        SettingError,
        match=rf"pipeline.max_skipped_share={share:g} cannot be used. Allowed: numbers >= 0 and < 1. 0 all",
    ):
        PipelineSettings(max_skipped_share=share)
