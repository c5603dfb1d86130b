"""Worker processes: the same batches as threads, whatever dies meanwhile."""

import itertools
import os
import pickle
import signal
import threading
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import ExampleError, Stage
from dataecho.plan import keys as draws

SIZE = 40


class Shards(Source):
    """Read when items enter: records travel from the parent."""

    num_shards, random_access, digest = 3, False, "shards"

    def num_examples(self, shard):
        return 10 + shard

    def read(self, shards, ks):
        return [
            {"x": np.int64(100 * s + k), "text": b"." * 10} for s, k in zip(shards.tolist(), ks.tolist(), strict=True)
        ]


def decode(record):
    return {"x": record["x"], "pid": np.int64(os.getpid())}


def shift(example, key):
    return {**example, "shift": draws.integers(key, draw=0, high=1 << 30)}


STAGES = (Stage("decode", decode), Stage("shift", shift, random=True))


def array_source():
    return ArraySource({"x": np.arange(SIZE, dtype=np.int64)})


def feed(source=None, stages=STAGES, *, num_processes=2, state=None, share=0.0, **echo):
    return Feed(
        source or array_source(),
        stages,
        batch_size=8,
        shuffle_buffer=16,
        seed=0,
        settings=PipelineSettings(
            num_threads=1, num_processes=num_processes, look_ahead=3, chunk_size=3, max_skipped_share=share
        ),
        state=state,
        **echo,
    )


def rows(batches, *, names=("x", "shift")):
    return [{name: batch[name].tolist() for name in names} for batch in batches]


ECHOES = {
    "none": {},
    "read": {"echo_after": "read", "factor": 2.5},
    "decode": {"echo_after": "decode", "factor": 3.0},
    "shift": {"echo_after": "shift", "factor": 2.0},
    "batch": {"echo_after": "batch", "factor": 2.5, "batch_shuffle_buffer": 2},
    "device": {"echo_after": "device", "factor": 2.0},
}


@pytest.mark.parametrize("source", [array_source, Shards], ids=["array", "shards"])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_processes_give_the_batches_of_threads(echo, source):
    with feed(source(), num_processes=0, **echo) as batches:
        expected = rows(itertools.islice(batches, 25))
    with feed(source(), **echo) as batches:
        first = list(itertools.islice(batches, 10))
        state = batches.state(10)
    assert rows(first) == expected[:10]
    pids = {pid for batch in first for pid in batch["pid"].tolist()}
    assert len(pids) == 2 and os.getpid() not in pids
    with feed(source(), num_processes=3, state=state, **echo) as batches:  # another number changes nothing
        assert rows(itertools.islice(batches, 15)) == expected[10:]


def test_every_use_of_an_item_is_at_one_worker_which_decodes_it_once():
    with feed(echo_after="decode", factor=4.0) as batches:
        delivered = list(itertools.islice(batches, 30))
        batches.pause()
        reading = batches.meter.read()
    at = {}
    for batch in delivered:
        for ordinal, pid in zip(batch.planned.ordinal.tolist(), batch["pid"].tolist(), strict=True):
            at.setdefault(ordinal, set()).add(pid)
    assert all(len(pids) == 1 for pids in at.values())
    assert len(at) <= reading.stage_examples["decode"] <= len(at) + 3 * 8
    assert reading.stage_examples["decode"] == reading.num_reads
    assert reading.worker_cpu_seconds > 0


def test_rows_arrive_as_they_were_sent():
    sent = Rows(*np.arange(21).reshape(7, 3))
    arrived = pickle.loads(pickle.dumps(sent))
    for column in fields(Rows):
        assert getattr(arrived, column.name).tolist() == getattr(sent, column.name).tolist()
        assert getattr(arrived, column.name).dtype == np.int64


class DiesAt:
    """Kills its process the first time it sees ``number``; every time if ``always``."""

    def __init__(self, number, flag, *, always=False):
        self.number, self.flag, self.always = number, flag, always

    def __call__(self, record):
        if record["x"] == self.number and (self.always or not self.flag.exists()):
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(record)


@pytest.mark.parametrize("source", [array_source, Shards], ids=["array", "shards"])
@pytest.mark.parametrize("echo", [{}, {"echo_after": "decode", "factor": 3.0}], ids=["none", "decode"])
def test_a_worker_that_dies_is_reported_and_replaced_and_changes_no_batch(echo, source, tmp_path, caplog):
    with feed(source(), num_processes=0, **echo) as batches:
        expected = rows(itertools.islice(batches, 25))
    stages = (Stage("decode", DiesAt(7, tmp_path / "died")), STAGES[1])
    with feed(source(), stages, **echo) as batches:
        assert rows(itertools.islice(batches, 25)) == expected
        assert batches.meter.read().num_restarts == 1
    assert "A worker process died (exit code -9)" in caplog.text
    assert "replaced" in caplog.text


def test_an_example_that_kills_every_worker_is_an_error_that_names_it(tmp_path):
    stages = (Stage("decode", DiesAt(7, tmp_path / "died", always=True)), STAGES[1])
    message = "example .* of shard 0 .*the worker process died 2 times .exit code -9."
    with pytest.raises(ExampleError, match=message), feed(stages=stages) as batches:
        list(itertools.islice(batches, 25))


def fails_at_seven(record):
    if record["x"] == 7:
        raise ValueError("no such digit")
    return decode(record)


def test_a_failing_example_is_named_and_tolerated_as_with_threads():
    stages = (Stage("decode", fails_at_seven), STAGES[1])
    with (
        pytest.raises(
            ExampleError, match="stage 'decode' failed on example 7 of shard 0 .epoch 0.: ValueError: no such"
        ),
        feed(stages=stages) as batches,
    ):
        list(itertools.islice(batches, 25))
    runs = []
    for num_processes in (0, 2):
        with feed(stages=stages, num_processes=num_processes, share=0.1, echo_after="decode", factor=2.0) as batches:
            delivered = list(itertools.islice(batches, 25))
        runs.append([(batch.weights.tolist(), batch.skipped, batch["x"].tolist()) for batch in delivered])
    assert runs[0] == runs[1]
    assert sum(len(skipped) for _, skipped, _ in runs[0]) >= 2


def wrong_shape(record):
    return {"x": np.zeros(2 if record["x"] == 7 else 1)}


def test_an_example_of_another_shape_is_an_error():
    message = "stage 'batch' failed on .*field 'x' is float64 .2,. here"
    with pytest.raises(ExampleError, match=message), feed(stages=(Stage("decode", wrong_shape),)) as batches:
        list(itertools.islice(batches, 25))


def test_a_stage_that_cannot_travel_is_refused_with_the_cure():
    lock = threading.Lock()
    with pytest.raises(SettingError, match="pipeline.num_processes=2 .* pipeline=threads"):
        feed(stages=(Stage("decode", lambda record: (lock, record)),))


def test_a_lambda_travels_by_value():
    with feed(stages=(Stage("decode", lambda record: {"x": record["x"] + 1}),)) as batches:
        for batch in itertools.islice(batches, 3):
            np.testing.assert_array_equal(batch["x"], batch.planned.k + 1)


def test_evaluation_works_in_processes_too():
    settings = PipelineSettings(num_processes=2, chunk_size=3)
    with once_through(array_source(), (Stage("decode", decode),), batch_size=16, settings=settings) as batches:
        seen = [x for batch in batches for x in batch["x"][batch.weights > 0].tolist()]
    assert seen == list(range(SIZE))


def test_no_worker_outlives_its_feed():
    with feed() as batches:
        pids = {pid for batch in itertools.islice(batches, 5) for pid in batch["pid"].tolist()}
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
