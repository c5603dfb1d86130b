"""Every step of a piece's life, with everything that can happen in it: what a feed does then.

    python -m tests.pipeline.engine.fault_matrix              # all cells, those that are excluded with the reason
    python -m tests.pipeline.engine.fault_matrix --sample 50 --seed 3

In each cell a feed of twelve batches meets one fault. Within a bounded time it gives the batches of an undisturbed
run, or an error that is no end; what it gave before is right; and afterwards no thread, process, file descriptor or
temporary file is left. Runs on Linux (``/proc``).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
import unittest.mock
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataecho.pipeline.engine import engine as engine_module
from dataecho.pipeline.engine.engine import StallError
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.processes import WorkerPool
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import Stage
from dataecho.pipeline.storage.spill import Spill
from dataecho.plan import keys as draws
from dataecho.plan.plan import Plan
from dataecho.sources.map_style import MapStyleSource
from dataecho.sources.tar import TarSource
from tests.sources.http_server import HttpServer
from tests.sources.tar_files import write_tar

NUM_SHARDS, SHARD_LENGTH, NUM_BATCHES, BATCH_SIZE = 6, 8, 12, 4
SIZE = NUM_SHARDS * SHARD_LENGTH
STALL, STALL_OF_PROCESSES, GRACE, LIMIT = 1.0, 4.0, 0.3, 60  # seconds; after the last a cell hangs

SOURCES = ("memory", "files", "entry-read", "map-style", "read ahead", "shards over HTTP")
EXECUTORS: dict[str, dict[str, Any]] = {
    "threads": {"num_threads": 2, "chunk_size": 2, "look_ahead": 3},
    "processes": {"num_processes": 2, "chunk_size": 2, "look_ahead": 3},
    "caller": {"num_threads": 0, "chunk_size": 2, "look_ahead": 3},
}
ECHOES: dict[str, dict[str, Any]] = {
    "none": {},
    "batch": {"echo_after": "batch", "factor": 2},
    "device": {"echo_after": "device", "factor": 2},
    "items": {"echo_after": "decode", "factor": 2.5},
}
STEPS = ("plan", "length", "fetch", "place", "read", "hold", "decode", "augment", "write", "repeat", "deliver", "drop")
FAULTS = (
    "exception",
    "MemoryError",
    "interrupt",
    "hang",
    "killed process",
    "disk full",
    "too many open files",
    "stall",
)


@dataclass(frozen=True)
class Cell:
    """One square of the matrix."""

    step: str
    fault: str
    executor: str
    source: str
    echo: str

    def __str__(self) -> str:
        return f"{self.fault} in {self.step}: {self.executor}, {self.source}, echo {self.echo}"

    def excluded(self) -> str:
        """Why there is no such thing, or nothing that a program could do; empty for a cell that is run."""
        fetched, at_entry = self.source == "shards over HTTP", self.source in ("entry-read", "shards over HTTP")
        in_child = self.step in ("decode", "augment") or (self.step == "read" and self.source in _AT_HAND)
        if self.step in ("fetch", "place", "drop") and not fetched:
            return "nothing is fetched"
        if self.step == "length" and self.source not in ("entry-read", "shards over HTTP", "read ahead"):
            return "the length is asked before the feed begins"
        if self.step == "repeat" and self.echo not in ("batch", "device"):
            return "no batch is repeated"
        if self.step == "hold" and not at_entry:
            return "nothing is spilled"
        if self.fault == "hang" and self.executor == "caller":
            return "a call that hangs in the caller's own thread cannot be bounded"
        if self.fault == "hang" and self.step == "deliver":
            return "batches are delivered in the caller's own thread"
        if self.fault == "killed process" and not (self.executor == "processes" and in_child):
            return "not in a worker process"
        if self.fault == "disk full" and self.step not in ("hold", "place"):
            return "writes nothing to a disk"
        if self.fault == "too many open files" and self.step not in ("length", "fetch", "read", "hold"):
            return "opens no file"
        if self.fault == "stall" and (self.step != "fetch" or not fetched):
            return "uses no connection"
        own = ("length", "plan", "hold", "write", "repeat", "deliver")
        if self.fault == "interrupt" and self.step in own and self.executor != "caller":
            return "Ctrl-C reaches the caller, who waits: the same as in any other step"
        return ""


_AT_HAND = ("memory", "files", "map-style")


class Trigger:
    """Raises, hangs or kills at a step of the example, or in the shard, that is the target. Travels to processes."""

    def __init__(self, cell: Cell, target: int, folder: str, *, caller: int) -> None:
        self.cell, self.target, self.marker, self.caller = cell, target, os.path.join(folder, "fired"), caller

    def at(self, step: str, *numbers: int) -> None:
        if step != self.cell.step or (numbers and self.target not in numbers):
            return
        fault = self.cell.fault
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:  # two workers can be at copies of one example
            if fault in ("interrupt", "killed process", "hang"):
                return
        if fault == "exception":
            raise RuntimeError("injected")
        if fault == "MemoryError":
            raise MemoryError("injected")
        if fault == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if fault == "too many open files":
            raise OSError(errno.EMFILE, "Too many open files")
        if fault == "killed process":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "interrupt":
            if threading.current_thread() is threading.main_thread() and os.getpid() == self.caller:
                raise KeyboardInterrupt
            os.kill(self.caller, signal.SIGINT)
        if fault == "hang":
            if os.getpid() == self.caller:
                _release.wait()
            else:
                time.sleep(1000)


class Silent:
    """Nothing happens."""

    def at(self, step: str, *numbers: int) -> None:
        pass


_release = threading.Event()


class Data(Source):
    """Numbers in shards, of the kinds that have no file."""

    num_shards, digest = NUM_SHARDS, "matrix"

    def __init__(self, kind: str, trigger: Any) -> None:
        self.kind, self.trigger = kind, trigger

    @property
    def random_access(self) -> bool:
        return self.kind != "entry-read"

    @property
    def num_readers(self) -> int:
        return 2 if self.kind == "read ahead" else 0

    def num_examples(self, shard: int) -> int:
        if self.kind != "files":
            self.trigger.at("length", SHARD_LENGTH * shard)
        return SHARD_LENGTH

    def read(self, shards: np.ndarray, ks: np.ndarray) -> list[dict[str, Any]]:
        numbers = (SHARD_LENGTH * shards + ks).tolist()
        self.trigger.at("read", *numbers)
        return [_record(number) for number in numbers]


class InMemory(ArraySource):
    def __init__(self, trigger: Any) -> None:
        super().__init__({"x": np.arange(SIZE)})
        self.trigger = trigger

    def read(self, shards: np.ndarray, ks: np.ndarray) -> Any:
        self.trigger.at("read", *ks.tolist())
        return super().read(shards, ks)


class Dataset:
    def __init__(self, trigger: Any) -> None:
        self.trigger = trigger

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, k: int) -> dict[str, Any]:
        self.trigger.at("read", int(k))
        return _record(int(k))


class Tar(TarSource):
    """Real archives from a real server, with room for three of them."""

    trigger: Any = Silent()

    def num_examples(self, shard: int) -> int:
        self.trigger.at("length", SHARD_LENGTH * shard)
        return super().num_examples(shard)

    def fetch(self, shard: int, *, proceed: Any, on_place: Any = lambda: None) -> int:
        self.trigger.at("fetch", SHARD_LENGTH * shard)

        def placed() -> None:
            self.trigger.at("place", SHARD_LENGTH * shard)
            on_place()

        return super().fetch(shard, proceed=proceed, on_place=placed)

    def drop(self, shard: int) -> None:
        self.trigger.at("drop", SHARD_LENGTH * shard)
        super().drop(shard)

    def read(self, shards: np.ndarray, ks: np.ndarray) -> list[Any]:
        self.trigger.at("read", *(SHARD_LENGTH * shards + ks).tolist())
        return super().read(shards, ks)


def _record(number: int) -> dict[str, Any]:
    return {"x": np.int64(number), "bytes": bytes(5000)}


@dataclass
class Stages:
    """Decode, then augment; both tell the trigger."""

    trigger: Any

    def decode(self, record: dict[str, Any]) -> dict[str, Any]:
        number = int(record["x"]) if "x" in record else int(np.frombuffer(record["bin"][:8], np.int64)[0])
        self.trigger.at("decode", number)
        return {"x": np.full(3, number)}

    def augment(self, example: dict[str, Any], key: np.uint64) -> dict[str, Any]:
        self.trigger.at("augment", int(example["x"][0]))
        return {**example, "draw": draws.integers(key, draw=0, high=1 << 40)}

    def __call__(self) -> tuple[Stage, ...]:
        return (Stage("decode", self.decode), Stage("augment", self.augment, random=True))


@dataclass
class Bench:
    """What cells share: archives and their server, worker processes, and the batches of undisturbed runs."""

    folder: Path
    server: HttpServer
    pool: WorkerPool
    undisturbed: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def source(self, cell: Cell, trigger: Any) -> Source:
        if cell.source == "memory":
            return InMemory(trigger)
        if cell.source == "map-style":
            dataset = Dataset(Silent())
            source = MapStyleSource(dataset)
            assert source.digest
            for copy in (dataset, source._unread):
                copy.trigger = trigger
            return source
        if cell.source != "shards over HTTP":
            return Data(cell.source, trigger)
        size = (self.folder / "shard-0.tar").stat().st_size
        source = Tar(
            f"{self.server.url}/shard-{{0..{NUM_SHARDS - 1}}}.tar",
            index_dir=str(self.folder / "index"),
            max_local_bytes=3 * size,
            num_fetches=2,
            num_retries=2,
            first_delay=0.01,
            timeout=0.2,
        )
        source.trigger = trigger
        return source

    def feed(self, cell: Cell, trigger: Any, *, stall: float) -> Feed:
        return Feed(
            self.source(cell, trigger),
            Stages(trigger)(),
            batch_size=BATCH_SIZE,
            shuffle_buffer=8,
            seed=0,
            # A caller that helps could be the one that hangs, and that cannot be bounded.
            settings=PipelineSettings(
                stall_timeout=stall, max_waiting=0, loop_helps=cell.fault != "hang", **EXECUTORS[cell.executor]
            ),
            pool=self.pool,
            **ECHOES[cell.echo],
        )

    def expected(self, cell: Cell) -> list[Any]:
        key = cell.source, cell.echo
        if key not in self.undisturbed:
            with self.feed(Cell("", "", "caller", cell.source, cell.echo), Silent(), stall=30.0) as feed:
                self.undisturbed[key] = [_plain(next(feed)) for _ in range(NUM_BATCHES)]
        return self.undisturbed[key]

    def target(self, cell: Cell) -> int:
        """An example of the sixth batch that was in none before; or the first of the shard that the plan reaches in the
        third place."""
        batches = self.expected(cell)
        before = {number for batch in batches[:4] for number in batch["x"]}
        number = next(number for batch in batches[4:] for number in batch["x"] if number not in before)
        if cell.step in ("length", "fetch", "place", "drop"):
            return number // SHARD_LENGTH * SHARD_LENGTH
        return int(number)


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A server over archives, and worker processes."""
    with tempfile.TemporaryDirectory() as name, _temporary_files_in(name):
        folder = Path(name) / "served"
        folder.mkdir()
        for shard in range(NUM_SHARDS):
            members = [
                (f"{k:03d}.bin", np.int64(SHARD_LENGTH * shard + k).tobytes() + bytes(5000))
                for k in range(SHARD_LENGTH)
            ]
            write_tar(folder / f"shard-{shard}.tar", members)
        server = HttpServer(folder)
        try:
            with WorkerPool() as pool:
                yield Bench(folder, server, pool)
        finally:
            server.close()


@contextlib.contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """So that those of other programs are not taken for ours."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def _plain(batch: Any) -> dict[str, Any]:
    plain = {"x": batch["x"][:, 0].tolist(), "draw": batch["draw"].tolist(), "weights": batch.weights.tolist()}
    batch.release()
    return plain


class Failed(AssertionError):
    """A cell did what no cell may do."""


def run(cell: Cell, bench: Bench) -> str:
    """What came of it: ``same batches``, or the error's class. Raises :class:`Failed`."""
    expected, target = bench.expected(cell), bench.target(cell)
    before = _left_over()
    for times in (1, 3, 9):  # on a busy machine the stall timeout may be over before the step is reached
        with tempfile.TemporaryDirectory() as folder:
            trigger = Trigger(cell, target, folder, caller=os.getpid())
            _release.clear()
            with _patched(cell, trigger, bench), _alarm(cell):
                outcome = _drive(cell, bench.feed(cell, trigger, stall=times * _stall_timeout(cell)), expected)
            _release.set()
            has_fired = os.path.exists(trigger.marker) or cell.fault == "stall"
        _check_left_over(cell, before)
        if has_fired:
            return outcome
        if outcome != StallError.__name__:
            break
    raise Failed(f"{cell}: the step was never reached")


def _stall_timeout(cell: Cell) -> float:
    if cell.fault != "hang":
        return 60.0
    return STALL_OF_PROCESSES if cell.executor == "processes" else STALL  # some of them have to be started


def _drive(cell: Cell, feed: Feed, expected: list[Any]) -> str:
    interrupts = 0
    got: list[Any] = []
    with feed:
        while len(got) < NUM_BATCHES:
            try:
                batch = _plain(next(feed))
            except KeyboardInterrupt:
                interrupts += 1
                if cell.fault != "interrupt" or interrupts > 1:
                    raise Failed(f"{cell}: an interrupt out of nowhere") from None
                continue
            except StopIteration:
                raise Failed(f"{cell}: the feed ended without an error after {len(got)} batches") from None
            except Exception as error:
                _check_error(cell, error)
                return type(error).__name__
            if batch != expected[len(got)]:
                raise Failed(f"{cell}: batch {len(got)} is {batch}, not {expected[len(got)]}")
            got.append(batch)
    if cell.fault == "interrupt" and not interrupts:
        time.sleep(0.05)  # it may still be on its way
    if cell.fault in ("exception", "MemoryError", "hang") and cell.step != "drop":
        raise Failed(f"{cell}: it was swallowed")
    return "same batches"


def _check_error(cell: Cell, error: Exception) -> None:
    text = str(error)
    if cell.fault == "hang":
        if (
            not isinstance(error, StallError)
            or "pipeline.stall_timeout" not in text
            or "at work: nobody" in text.lower()
        ):
            raise Failed(f"{cell}: a call that hangs is told as {error!r}") from error
    elif cell.fault == "killed process":
        raise Failed(f"{cell}: a worker that dies once is replaced, not told: {error!r}") from error
    elif cell.step in ("read", "decode", "augment") and cell.fault != "interrupt":
        names_both = "stage" in text and ("injected" in text or "open files" in text)
        if not names_both:
            raise Failed(f"{cell}: the error names no example: {text}") from error


@contextlib.contextmanager
def _patched(cell: Cell, trigger: Trigger, bench: Bench) -> Iterator[None]:
    """The steps that are the engine's own, not a source's or a stage's."""
    calls: Counter[str] = Counter()

    def once(name: str, old: Any) -> Any:
        def new(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            if calls[name] == 5:
                trigger.at(name)
            return old(*arguments, **named)

        return new

    own: dict[str, list[tuple[Any, str]]] = {
        "plan": [(Plan, "next_event")],
        "hold": [(Spill, "_opened")] if cell.fault == "too many open files" else [(os, "pwrite")],
        "write": [(Job, "arrays"), (Job, "write_all")],
        "repeat": [(Job, "copy_from")],
        "deliver": [(Job, "batch")],
    }
    with contextlib.ExitStack() as stack:
        for owner, name in own.get(cell.step, []):
            old = owner.__dict__[name]
            function = old.__func__ if isinstance(old, staticmethod) else old
            if cell.fault == "too many open files" and cell.step == "hold":
                calls["hold"] = 4  # it is opened once
            new = once(cell.step, function)
            setattr(owner, name, staticmethod(new) if isinstance(old, staticmethod) else new)
            stack.callback(setattr, owner, name, old)
        if cell.fault == "stall":
            from tests.sources.http_server import Fault

            for shard in range(NUM_SHARDS):
                bench.server.fail(f"shard-{shard}.tar", Fault(kind="stall", after=3000))
            stack.callback(bench.server.faults.clear)
        yield


@contextlib.contextmanager
def _alarm(cell: Cell) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Failed(f"{cell}: still running after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _left_over() -> dict[str, set[Any]]:
    return {
        "threads": {thread for thread in threading.enumerate() if thread.name.startswith("dataecho-")},
        "temporary files": {path.name for path in Path(tempfile.gettempdir()).glob("dataecho-*")},
        "open copies of shards": {name for name in map(_target, os.listdir("/proc/self/fd")) if ".tar" in name},
    }


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # that of this very listing
        return ""


def _num_open(bench: Bench | None = None) -> int:
    return len(os.listdir("/proc/self/fd"))


def _check_left_over(cell: Cell, before: dict[str, set[Any]]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        gc.collect()  # an error and the feed that told it hold each other
        left = {kind: now - before[kind] for kind, now in _left_over().items()}
        left["threads"] = {thread for thread in left["threads"] if thread.is_alive()}
        if not any(left.values()):
            return
        time.sleep(0.01)
    raise Failed(f"{cell}: left behind: {left}")


CELLS = [
    Cell(step, fault, executor, source, echo)
    for step in STEPS
    for fault in FAULTS
    for executor in EXECUTORS
    for source in SOURCES
    for echo in ECHOES
]


def run_many(cells: list[Cell], *, show: Any = print) -> Counter[tuple[str, str]]:
    """(fault, outcome) of all of them, counted. Raises :class:`Failed` for those that failed, all together."""
    outcomes: Counter[tuple[str, str]] = Counter()
    failures = []
    with bench() as shared, unittest.mock.patch.object(engine_module, "GRACE", GRACE):
        for executor in EXECUTORS:  # servers and processes are there before descriptors are counted
            run(Cell("decode", "exception", executor, "shards over HTTP", "none"), shared)
        _num_warm = _num_open()
        for number, cell in enumerate(cells):
            try:
                outcomes[cell.fault, run(cell, shared)] += 1
            except Failed as failure:
                failures.append(str(failure))
                show(f"FAILED {failure}")
            if number % 100 == 99:
                show(f"{number + 1} of {len(cells)} cells, {len(failures)} failed, {_num_open()} descriptors")
        # A stalled fetch leaves up to six connections to the server (which is in this process too) until that gives up.
        num_connections = 6 * sum(cell.fault == "stall" for cell in cells)
        if _num_open() > _num_warm + 8 + num_connections:
            failures.append(f"{_num_open()} descriptors are open, {_num_warm} were at first")
    if failures:
        raise Failed(f"{len(failures)} of {len(cells)} cells failed:\n" + "\n".join(failures[:20]))
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="so many cells; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of a cell's name")
    given = parser.parse_args()
    excluded = Counter(reason for cell in CELLS if (reason := cell.excluded()))
    cells = [cell for cell in CELLS if not cell.excluded() and given.only in str(cell)]
    random.Random(given.seed).shuffle(cells)
    cells = cells[: given.sample or None]
    started = time.monotonic()
    outcomes = run_many(cells, show=lambda line: print(line, flush=True))
    print(f"{len(cells)} cells in {time.monotonic() - started:.0f} s")
    for (fault, outcome), count in sorted(outcomes.items()):
        print(f"  {fault}: {outcome}: {count}")
    for reason, count in excluded.most_common():
        print(f"excluded, {reason}: {count}")


if __name__ == "__main__":
    from tests.pipeline.engine import fault_matrix  # by its name, under which worker processes find its classes

    sys.exit(fault_matrix.main())
