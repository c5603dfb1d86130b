"""What an engine does when something outside hangs, dies, is full, or is forgotten."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dataecho.errors import DataError, SettingError
from dataecho.pipeline.engine import engine as engine_module
from dataecho.pipeline.engine.board import TRANSITIONS, Phase
from dataecho.pipeline.engine.engine import StallError
from dataecho.pipeline.engine.processes import WorkerPool, WorkerProcess
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import Stage
from dataecho.pipeline.storage.spill import Spill
from dataecho.sources.tar import TarSource
from tests.sources.http_server import HttpServer
from tests.sources.tar_files import write_tar
from tests.support import PROJECT

SIZE = 64


class Gate:
    """Lets a call of a stage, a source or a drop hang until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(60)


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.setattr(engine_module, "GRACE", 0.2)
    gate = Gate()
    yield gate
    gate.opened.set()


def feed(stages=(), *, source=None, settings=None, **echo):
    return Feed(
        source or ArraySource({"x": np.arange(SIZE)}),
        stages,
        batch_size=8,
        shuffle_buffer=16,
        seed=0,
        settings=PipelineSettings(**(settings or {})),
        **echo,
    )


def hangs_in_process(example):
    if example["x"] == 13:
        time.sleep(1000)
    return example


def test_a_phase_changes_only_as_the_table_says():
    with feed() as batches:
        board = batches._executor._engine._board
        next(batches)
        assert board.phase is Phase.RUNNING
        assert batches.pause() and board.phase is Phase.PAUSED
        with pytest.raises(RuntimeError, match="cannot go from paused to pausing"):
            board.change(Phase.PAUSING)
        batches.resume()
        assert board.phase is Phase.RUNNING
    assert board.phase is Phase.CLOSED and not TRANSITIONS[Phase.CLOSED]
    with pytest.raises(StopIteration):
        next(batches)


def test_who_asks_a_feed_that_stands_still_is_told_so():
    with feed() as batches:
        batches.pause()
        with pytest.raises(RuntimeError, match="stands still.*resume"):
            next(batches)


def test_a_call_that_hangs_in_a_thread_is_named_with_its_line_and_the_feed_closes(gate, caplog):
    def hangs(example):
        if example["x"] == 13:
            gate()
        return example

    settings = {"stall_timeout": 0.3, "loop_helps": False}
    batches = feed([Stage("hangs", hangs)], settings=settings)
    with (
        pytest.raises(StallError, match=r"stall_timeout.*at batch \d+: example .*, in __call__, .*test_engine.py"),
        batches,
    ):
        list(itertools.islice(batches, 100))
    assert "left behind" in caplog.text
    with pytest.raises(StallError):
        next(batches)


def test_a_call_that_hangs_in_a_process_ends_with_the_process():
    pool = WorkerPool()
    with feed(settings={"num_processes": 2}, pool=pool) as batches:  # to start processes may take more than 5 s
        next(batches)
    stages, settings = [Stage("hangs", hangs_in_process)], {"num_processes": 2, "stall_timeout": 5.0}
    with pool, feed(stages, settings=settings, pool=pool) as batches:
        next(batches)
        pids = [helper._process.number for helper in batches._executor._engine._workers._helpers]
        with pytest.raises(StallError, match=r"process \d+.*example"):
            list(itertools.islice(batches, 100))
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_progress_begins_the_stall_timeout_anew():
    def slow(example):
        time.sleep(0.02)
        return example

    settings = {"stall_timeout": 0.8, "num_threads": 1, "chunk_size": 2, "loop_helps": False}
    with feed([Stage("slow", slow)], settings=settings, echo_after="slow", factor=1) as batches:
        assert len(list(itertools.islice(batches, 6))) == 6  # 48 examples: 0.96 s of work


def test_an_error_is_told_at_once_though_another_process_hangs():
    """The example that fails is in an earlier batch than the one that hangs."""
    with feed() as batches:
        order = [
            pair
            for batch in itertools.islice(batches, 6)
            for pair in zip(batch["x"].tolist(), batch.planned.ordinal.tolist(), strict=True)
        ]
    fails = next(x for x, ordinal in order if ordinal % 2 == 0)
    hangs = next(x for x, ordinal in order[8:] if ordinal % 2 == 1)
    stage = FailsAndHangs(int(fails), int(hangs))
    started = time.monotonic()
    with (
        pytest.raises(RuntimeError, match="a broken example"),
        feed([Stage("s", stage)], settings={"num_processes": 2}) as batches,
    ):
        list(itertools.islice(batches, 20))
    assert time.monotonic() - started < 60  # the call would hang for a quarter of an hour


class FailsAndHangs:
    def __init__(self, fails, hangs):
        self._fails, self._hangs = fails, hangs

    def __call__(self, example):
        if example["x"] == self._hangs:
            time.sleep(1000)
        if example["x"] == self._fails:
            raise ValueError("a broken example")
        return example


def test_a_pause_waits_for_a_length_that_is_asked(gate):
    class Asked(Source):
        num_shards, random_access, digest = 400, True, "asked"

        def num_examples(self, shard):
            if gate.armed:
                gate()
            return 50

        def read(self, shards, ks):
            return {"x": ks}

    gate.armed = False
    with feed(source=Asked(), settings={"look_ahead": 2}) as batches:
        next(batches)
        gate.armed = True
        consumer = threading.Thread(target=lambda: list(itertools.islice(batches, 1200)), daemon=True)
        consumer.start()
        assert gate.reached.wait(30)
        assert not batches.pause(timeout=0.05)
        gate.armed = False
        gate.opened.set()
        while not batches.pause(timeout=5):
            pass
        batches.resume()
        consumer.join(60)
    assert not consumer.is_alive()


@pytest.mark.parametrize("num_processes", [0, 2])
@pytest.mark.parametrize("releases", [True, False])
def test_echo_on_the_device_gives_its_batches_back(num_processes, releases):
    settings = {"num_processes": num_processes}
    with feed(settings=settings, echo_after="device", factor=3) as batches:
        open_files, sizes = [], []
        for number, batch in enumerate(itertools.islice(batches, 200)):
            if releases:
                batch.release()
            if number in (60, 199):
                del batch
                gc.collect()
                open_files.append(len(os.listdir("/proc/self/fd")))
                sizes.append(batches.meter.read().batch_bytes)
    assert open_files[1] <= open_files[0] + 4
    if releases:
        assert sizes[1] <= sizes[0] + 8 * 8 * 8


def test_what_a_dead_process_had_kept_is_not_counted_any_more():
    stages = [Stage("decode", lambda example: {"x": np.full(100, example["x"])})]
    with feed(stages, settings={"num_processes": 1}, echo_after="decode", factor=4) as batches:
        list(itertools.islice(batches, 10))
        helper = batches._executor._engine._workers._helpers[0]
        for _ in range(5):
            batches.pause()
            os.kill(helper._process.number, signal.SIGKILL)
            batches.resume()
            list(itertools.islice(batches, 10))
        batches.pause()
        assert batches.meter.read().num_restarts >= 4
        assert batches.meter.read().stored_bytes == helper._stored_bytes <= SIZE * 100 * 8
    assert batches.meter.read().stored_bytes == 0


def test_without_a_file_more_no_process_starts_and_the_cure_is_told(monkeypatch):
    def full(*arguments):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("socket.socketpair", full)
    with pytest.raises(SettingError, match=r"a worker process cannot be used.*Too many open files.*ulimit -n"):
        WorkerProcess()


def test_passes_over_a_source_share_processes_which_end_with_it():
    source = ArraySource({"x": np.arange(20)})
    stages = [Stage("pid", lambda example: {"pid": np.int64(os.getpid())})]
    settings = PipelineSettings(num_processes=2)
    pids = []
    for _ in range(2):
        with once_through(source, stages, batch_size=5, settings=settings) as batches:
            pids.append({pid for batch in batches for pid in batch["pid"].tolist()})
    assert pids[0] == pids[1] and len(pids[0]) == 2
    del source, batches
    gc.collect()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids[0])


def test_a_pool_gives_a_process_to_another_pipeline():
    with WorkerPool() as pool:
        seen = []
        for factor in (2, 3):
            stages = [
                Stage(
                    "times", lambda example, factor=factor: {"x": example["x"] * factor, "pid": np.int64(os.getpid())}
                )
            ]
            with Feed(
                ArraySource({"x": np.arange(SIZE)}), stages, batch_size=8, shuffle_buffer=0, seed=0,
                settings=PipelineSettings(num_processes=1), pool=pool,
            ) as batches:  # fmt: skip
                batch = next(batches)
                np.testing.assert_array_equal(batch["x"], batch.planned.k * factor)
                seen.append(set(batch["pid"].tolist()))
        assert seen[0] == seen[1]


@pytest.mark.parametrize("num_places", [1, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("num_fetches", [1, 4])
def test_whatever_place_there_is_shards_come_through(tmp_path, num_places, num_fetches):
    for shard in range(6):
        members = [(f"{k:02d}.bin", np.int64(10 * shard + k).tobytes() + bytes(3000)) for k in range(10)]
        write_tar(tmp_path / f"s{shard}.tar", members)
    size = (tmp_path / "s0.tar").stat().st_size
    server = HttpServer(tmp_path)
    try:
        source = TarSource(
            f"{server.url}/s{{0..5}}.tar",
            index_dir=str(tmp_path / "index"),
            max_local_bytes=int(num_places * size),
            num_fetches=num_fetches,
        )
        stages = [Stage("decode", lambda record: {"x": np.frombuffer(record["bin"][:8], np.int64)[0]})]
        with feed(stages, source=source, settings={"stall_timeout": 30.0}) as batches:
            seen = [x for batch in itertools.islice(batches, 15) for x in batch["x"].tolist()]
            assert len(seen) == 120
    finally:
        server.close()


def test_a_shard_that_is_larger_than_all_places_is_refused(tmp_path):
    write_tar(tmp_path / "s0.tar", [(f"{k}.bin", bytes(3000)) for k in range(10)])
    server = HttpServer(tmp_path)
    try:
        source = TarSource(f"{server.url}/s0.tar", index_dir=str(tmp_path / "index"), max_local_bytes=5000)
        with pytest.raises(DataError, match="larger than all copies.*max_local_bytes"), feed(source=source) as batches:
            next(batches)
    finally:
        server.close()


def test_a_disk_that_takes_a_part_of_what_is_written_gets_the_rest(monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:1000], offset))
    spill = Spill(max_bytes=1 << 20)
    data = os.urandom(5000)
    extent = spill.write(data)
    assert spill.read(extent) == data
    spill.close()


SCRIPT = """
import os, sys, time
import numpy as np
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage
{body}
"""


def run(body, *arguments, timeout=60):
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'platform'}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body), *arguments],
        capture_output=True, text=True, timeout=timeout, env=environment, check=False,
    )  # fmt: skip


def test_a_script_without_a_guard_has_worker_processes():
    """The functions are those of __main__, and come from a string: nothing of it is on a disk."""
    found = run("""
def double(example): return {"x": example["x"] * 2}
feed = Feed(ArraySource({"x": np.arange(100)}), [Stage("double", double)], batch_size=8, shuffle_buffer=16, seed=0,
            settings=PipelineSettings(num_processes=2))
batch = next(feed)
print((batch["x"] == 2 * batch.planned.k).all())
""")
    assert (found.returncode, found.stdout) == (0, "True\n"), found.stderr


def test_a_feed_that_nobody_closes_ends_with_the_interpreter():
    for _ in range(3):
        found = run("""
import torch
def augment(example, key): return {"x": torch.from_numpy(example["x"].copy()).add(1).numpy() @ np.ones((64, 64))}
feed = Feed(ArraySource({"x": np.zeros((200, 64, 64))}), [Stage("augment", augment, random=True)], batch_size=32,
            shuffle_buffer=64, seed=0, echo_after="before_augmentation", factor=2)
for number, batch in zip(range(5), feed): pass
print("done")
""")
        assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr


def test_a_thread_that_hangs_does_not_keep_the_interpreter():
    found = run("""
def hangs(example): time.sleep(1000)
feed = Feed(ArraySource({"x": np.arange(100)}), [Stage("hangs", hangs)], batch_size=8, shuffle_buffer=16, seed=0,
            settings=PipelineSettings(stall_timeout=0.5, loop_helps=False))
try: next(feed)
except RuntimeError as error: print(type(error).__name__)
""")
    assert (found.returncode, found.stdout) == (0, "StallError\n"), found.stderr


def test_threads_end_when_nobody_holds_the_feed_any_more():
    before = set(threading.enumerate())
    batches = feed()
    next(batches)
    threads = set(threading.enumerate()) - before
    assert threads
    del batches
    gc.collect()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_worker_processes_die_with_their_parent_even_in_a_call_that_never_returns():
    body = """
import signal
def hangs(example):
    if example["x"] == 40:
        print(os.getpid(), flush=True)
        time.sleep(1000)
    return example
feed = Feed(ArraySource({"x": np.arange(64)}), [Stage("hangs", hangs)], batch_size=8, shuffle_buffer=0, seed=0,
            settings=PipelineSettings(num_processes=1))
for batch in feed: pass
"""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "platform")}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
