"""The prediction of memory against what is really kept."""

import itertools
import time

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.accounting.memory import MIB, Memory
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import Stage
from dataecho.plan import keys as draws

BUFFER, BATCH, LOOK_AHEAD = 2400, 16, 2


class Shards(Source):
    """Records of 1,000 bytes, read when they enter."""

    num_shards, random_access, digest = 5, False, "shards"

    def num_examples(self, shard):
        return 400

    def read(self, shards, ks):
        return [{"x": bytes(1000)} for _ in ks]


def arrays():
    return ArraySource({"x": np.zeros((2000, 1000), dtype=np.uint8)})


def decode(record):
    return {"image": np.zeros(250, dtype=np.float32)}


def crop(example, key):
    return {"image": example["image"][: 100 + draws.integers(key, draw=0, high=1)]}


def feed(source, **echo):
    return Feed(
        source,
        [Stage("decode", decode), Stage("crop", crop, random=True)],
        batch_size=BATCH,
        shuffle_buffer=BUFFER,
        seed=0,
        settings=PipelineSettings(num_threads=1, look_ahead=LOOK_AHEAD),
        **echo,
    )


def measured(batches, *, num_warm=400, num_batches=200):
    """Mean bytes of kept results and waiting records, once the buffer has settled. The first batch is held until all
    that may be looked ahead is there: a loop that is never slow does the worker's work, one batch at a time.
    """
    results, records, most = [], [], batches.memory.batches
    for number, batch in enumerate(itertools.islice(batches, num_warm + num_batches)):
        deadline = time.monotonic() + 5
        while number == 0 and batches.meter.read().batch_bytes < most and time.monotonic() < deadline:
            time.sleep(0.001)
        reading = batches.meter.read()
        results.append(reading.stored_bytes)
        records.append(reading.waiting_bytes)
        batch.release()
    return np.mean(results[num_warm:]), np.mean(records[num_warm:]), batches.meter.read().batch_bytes


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 8.0])
@pytest.mark.parametrize("echo_after", ["read", "decode", "crop"])
@pytest.mark.parametrize("source", [arrays, Shards], ids=["at first use", "at entry"])
def test_the_prediction_is_within_15_percent_of_what_is_measured(source, echo_after, factor):
    with feed(source(), echo_after=echo_after, factor=factor) as batches:
        predicted = batches.memory
        results, records, batch_bytes = measured(batches)
    assert results == pytest.approx(predicted.results, rel=0.15)
    assert records == pytest.approx(predicted.records, rel=0.15)
    assert results + records + batch_bytes == pytest.approx(predicted.total, rel=0.15)
    assert (results > 0) == (factor > 1)
    assert (records > 0) == (source is Shards)


def test_the_sizes_are_those_of_record_result_and_row():
    with feed(Shards(), echo_after="decode", factor=2.0) as batches:
        memory = batches.memory
    assert memory.results == pytest.approx(0.5 * BUFFER * 1000, rel=1e-6)
    assert memory.records == pytest.approx(BUFFER * 0.5 / 2 * 1000, rel=1e-6)
    assert memory.batches == (LOOK_AHEAD + 1) * BATCH * 400


@pytest.mark.parametrize(("buffer", "factor"), [(0, 1.0), (0, 3.0), (10, 4.0)])
def test_the_batches_of_batch_echo_are_part_of_it(buffer, factor):
    with feed(arrays(), echo_after="batch", factor=factor, batch_shuffle_buffer=buffer) as batches:
        predicted = batches.memory
        for batch in itertools.islice(batches, 200):
            batch.release()
        batch_bytes = batches.meter.read().batch_bytes
    assert predicted.results == predicted.records == 0
    row = BATCH * 400
    assert predicted.batches / row == pytest.approx(
        LOOK_AHEAD + 1 + (0.46 * 10 if buffer else 0) + (factor > 1), abs=0.1
    )
    assert batch_bytes <= 2 * predicted.batches  # what was needed at the worst moment


def test_more_than_allowed_is_refused_with_the_numbers():
    memory = Memory(results=30 * MIB, records=1.5 * MIB, batches=8 * MIB)
    memory.check(None)
    memory.check(40)
    message = (
        r"pipeline.max_memory=39 cannot be used. Allowed: at least 40 MiB: 39.5 MiB "
        r".results 30.0, records 1.5, batches 8.0.. Raise it; or lower task.shuffle_buffer"
    )
    with pytest.raises(SettingError, match=message):
        memory.check(39)
