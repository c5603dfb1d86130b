"""Measured on parts that take a known time: real feed, slow source, stage and backend. Sleeping needs no core, so the
times hold on a busy machine; they can only be longer."""

import time

import numpy as np
import pytest

from dataecho.diagnose.measure import measure
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage
from dataecho.pipeline.throttle import Throttle
from dataecho.training.contracts import Backend
from dataecho.training.ranks import OneRank


class SleepingBackend(Backend):
    """Takes 2 ms for a copy, 6 ms for a step, after which only a synchronisation waits, as with an accelerator."""

    keeps_host_arrays = False
    identity = {"backend.device": "sleeping"}  # noqa: RUF012
    versions = None
    ranks = OneRank()

    def __init__(self):
        self.asked, self.rates, self.sizes = 0.0, set(), set()

    def put(self, batch):
        self.asked += 0.002
        self.sizes.add(len(batch))
        return batch

    def train_step(self, placed, *, learning_rate):
        self.asked += 0.006
        self.rates.add(learning_rate)

    def synchronize(self):
        time.sleep(self.asked)
        self.asked = 0.0

    def take_loss(self): ...

    def eval_step(self, placed): ...

    def state(self): ...

    def load_state(self, arrays, values): ...

    def weights(self): ...

    def load_weights(self, weights): ...


def slow_crop(chunk, keys):
    time.sleep(0.001 * len(keys))
    return chunk


STAGES = (Stage("decode", lambda record: dict(record)), Stage("crop", slow_crop, random=True, batched=True))


def measured(source, backend, *, seconds=1.0, num_threads=2, shuffle_buffer=10**6):
    told = []
    result = measure(
        source,
        STAGES,
        backend,
        batch_size=8,
        shuffle_buffer=shuffle_buffer,
        seed=0,
        settings=PipelineSettings(num_threads=num_threads, look_ahead=2, chunk_size=2),
        seconds=seconds,
        emulated={"latency": 1.0},
        show=lambda part, share: told.append((part, share)),
    )
    return result, told


def source(size=64):
    return ArraySource({"x": np.arange(size)})


def test_every_part_takes_its_time_alone_and_with_the_other_running():
    backend = SleepingBackend()
    result, told = measured(source(), backend)
    for side in (result.alone, result.both):
        assert side.worker_seconds["crop"] == pytest.approx(0.008, rel=0.6)  # of one worker: 8 examples
        assert side.place_seconds == pytest.approx(0.002, rel=0.6)
        assert side.step_seconds == pytest.approx(0.006, rel=0.6)
        assert side.worker_seconds["decode"] < 0.002 and side.transfer_seconds == 0
    assert result.stage_time(result.alone, "crop") == pytest.approx(0.004, rel=0.6)  # of both
    assert result.real_seconds == pytest.approx(0.004, rel=0.8)
    assert result.training_seconds == pytest.approx(0.008, rel=0.6)  # the loop's 2 + 6 ms are more than 4
    assert result.scaling.num_workers == 2 and result.scaling.speed_up == pytest.approx(2, rel=0.35)
    assert result.cpu_seconds["step"] < 0.003  # asleep
    assert (result.stages, result.random_stages) == (("read", "decode", "crop", "batch", "device"), {"crop"})
    assert (result.batch_size, result.num_workers, result.shares_cores, result.reads_apart) == (8, 2, False, False)
    assert result.emulated == {"latency": 1.0}
    assert backend.rates == {0.0} and backend.sizes == {8}  # the weights are left alone
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1, abs=0.08)
    assert list(dict(told)) == ["first batch", "device", "step", "input", "both", "cached", "scaling"]


def test_what_threads_of_their_own_read_is_no_time_of_the_workers():
    slow = Throttle(examples_per_second=400).slow_down(source())  # 20 ms per batch
    result, _ = measured(slow, SleepingBackend())
    assert result.reads_apart
    for side in (result.alone, result.both):
        assert side.transfer_seconds == pytest.approx(0.02, rel=0.3)
        assert side.worker_seconds["read"] < 0.004
    assert result.real_seconds == pytest.approx(0.02, rel=0.3)
    assert result.cached_seconds < 0.75 * result.real_seconds  # without reading there is only the crop


def test_one_worker_is_compared_with_two():
    result, _ = measured(source(), SleepingBackend(), num_threads=1, seconds=0.5)
    assert result.num_workers == 1
    assert result.scaling.num_workers == 2 and result.scaling.speed_up == pytest.approx(2, rel=0.35)


def test_a_large_shuffle_buffer_does_not_have_to_be_filled():
    class InOrder(ArraySource):
        random_access = False  # read when an item enters the buffer
        num_read = 0

        def read(self, shards, ks):
            self.num_read += len(ks)
            return super().read(shards, ks)

    counting = InOrder({"x": np.arange(100_000)})
    measured(counting, SleepingBackend(), seconds=0.2)
    assert 0 < counting.num_read < 20_000


def test_no_matter_how_short_the_time_something_is_measured():
    result, _ = measured(source(), SleepingBackend(), seconds=1e-6)
    assert result.training_seconds > 0.006 and result.both.worker_seconds["crop"] > 0.006
