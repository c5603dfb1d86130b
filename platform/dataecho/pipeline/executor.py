"""The executor: threads that turn planned batches into arrays, computing each upstream result once.

Workers pull. A worker without a chunk plans the next batch, if the look-ahead allows, and cuts it into chunks; results
of the stage before the echo point live in the store from first need to last use. Batches leave in plan order whatever
the number of threads, and nothing about their content depends on timing.

A source with random access is read at an item's first use. Any other is read when the item enters the plan, in source
order, each item once; the records wait in memory for their first use.
"""

from __future__ import annotations

import abc
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.batch import Arrays, Batch, BatchPool, as_rows, write_rows
from dataecho.pipeline.meter import Meter
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import (
    BATCH,
    DEVICE,
    READ,
    Chunk,
    Example,
    ExampleError,
    Stage,
    as_examples,
    chunk_length,
    frozen,
    num_bytes,
    own,
    run_stage,
    stage_names,
)
from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Ids
from dataecho.plan.plan import PlannedBatch


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """``num_threads`` workers; ``look_ahead`` batches at most are in work or waiting; ``chunk_size`` uses are worked on
    at a time. None of them changes a batch."""

    num_threads: int = 2
    look_ahead: int = 4
    chunk_size: int = 8

    def __post_init__(self) -> None:
        for name in ("num_threads", "look_ahead", "chunk_size"):
            value = getattr(self, name)
            require(value >= 1, f"pipeline.{name}", value, allowed="whole numbers >= 1", cure=f"Set pipeline.{name}.")


class Executor:
    """Iterator of :class:`Batch` in the order of ``planned``. A context manager: leaving it stops every thread; the
    first ``next`` starts them.

    ``echo_after`` is a stage's own name: what comes before it is computed once per item (or per batch, for ``batch``
    and ``device``) and kept until the plan's last use of it. Under ``batch`` every repeat is delivered as a copy of its
    own; under ``device`` all repeats share their arrays, for the caller keeps the batch resident. An example that
    fails raises :class:`ExampleError` from ``next`` at its batch, after the batches before it.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        planned: Iterator[PlannedBatch],
        *,
        echo_after: str,
        seed: int,
        settings: ExecutorSettings,
    ) -> None:
        self._planned = planned
        self._settings = settings
        self.meter = Meter()
        self._work = _Work(source, stages, echo_after=echo_after, seed=seed, meter=self.meter)
        self._shares_repeats = echo_after == DEVICE
        self._pool: BatchPool | None = None
        self._lock = threading.Lock()
        self._has_work, self._has_batch = threading.Condition(self._lock), threading.Condition(self._lock)
        self._tasks: deque[_Task] = deque()
        self._jobs: deque[_Job] = deque()
        self._reads_at_entry = not source.random_access
        self._records: dict[int, _Entry] = {}
        self._store: dict[int, _Entry] = {}
        self._echoed: dict[int, _Job] = {}
        self._num_active = 0
        self._exhausted = self._paused = self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"dataecho-worker-{number}", daemon=True)
            for number in range(settings.num_threads)
        ]
        self._started = False

    def __iter__(self) -> Executor:
        return self

    def __next__(self) -> Batch:
        while not self.ready(timeout=60):
            pass
        with self._lock:
            if not self._jobs:
                raise StopIteration
            job = self._jobs.popleft()
            self._has_work.notify_all()
        if job.error is not None:
            self.close()
            raise job.error
        return job.batch(self._pool)

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ready(self, *, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; whether ``next`` has its answer, be it a batch, an error or the end."""
        if not self._started and not self._closed:  # not before: what is read before the clock runs would be free
            self._started = True
            for thread in self._threads:
                thread.start()
        with self._lock:
            return self._has_batch.wait_for(self._has_answer, timeout)

    def pause(self) -> None:
        """Stop working and return when every worker stands still: a paused clock must not give free input."""
        with self._lock:
            self._paused = True
            while self._num_active:
                self._has_batch.wait()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        with self._lock:
            self._paused = False
            self._has_work.notify_all()

    def close(self) -> None:
        """Stop every thread, after the example it is working on, and forget what is ahead. May be called again."""
        with self._lock:
            self._closed = True
            self._tasks.clear()
            self._jobs.clear()
            self._has_work.notify_all()
            self._has_batch.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._records.clear()
        self._store.clear()
        self._echoed.clear()

    def _has_answer(self) -> bool:
        return self._jobs[0].finished if self._jobs else self._closed or self._exhausted

    def _run(self) -> None:
        while (task := self._next_task()) is not None:
            error: BaseException | None = None
            try:
                task.run(self._work)
            except BaseException as caught:
                error = caught
            with self._lock:
                self._num_active -= 1
                if task.job is not None:
                    task.job.task_done(error)
                self._has_batch.notify_all()

    def _next_task(self) -> _Task | None:
        with self._lock:
            while not self._closed:
                if not self._paused:
                    if not self._tasks and not self._exhausted and len(self._jobs) < self._settings.look_ahead:
                        self._plan_next()
                    if self._tasks:
                        self._num_active += 1
                        return self._tasks.popleft()
                self._has_work.wait()
            return None

    def _plan_next(self) -> None:
        """Cut the next batch into tasks. In plan order, under the lock: so the store knows every use in advance."""
        try:
            planned = next(self._planned)
        except StopIteration:
            self._exhausted = True
            self._has_batch.notify_all()
            return
        except BaseException as error:  # a source that cannot be opened: told where its batch would have been
            self._exhausted = True
            self._jobs.append(_Job.failed(error))
            self._has_batch.notify_all()
            return
        if self._pool is None:
            self._pool = BatchPool(len(planned))
        if self._reads_at_entry:
            self._read_entered(planned)
        self._jobs.append(self._assemble(planned) if planned.num_batch_repeats == 1 else self._repeat(planned))
        self._has_work.notify_all()

    def _read_entered(self, planned: PlannedBatch) -> None:
        """Queue the reads of what enters with this batch, before anything that needs them."""
        size = self._settings.chunk_size
        for start in range(0, len(planned.entered), size):
            items = planned.entered[start : start + size]
            records = [_Entry(1) for _ in items]
            self._records.update(zip(items[:, 0].tolist(), records, strict=True))
            self._tasks.append(_ReadTask(items, records))

    def _assemble(self, planned: PlannedBatch) -> _Job:
        assert self._pool is not None
        size = self._settings.chunk_size
        starts = range(0, planned.num_valid, size)
        job = _Job(planned, self._pool, num_tasks=len(starts))
        entries = self._entries(planned)
        for start in starts:
            rows = slice(start, min(start + size, planned.num_valid))
            self._tasks.append(_ChunkTask(job, rows, entries[rows] if entries is not None else None))
        return job

    def _entries(self, planned: PlannedBatch) -> list[_Entry] | None:
        """A store entry for every row, where some item is used more than once or was read when it entered."""
        if not self._work.echoes_items or not (planned.num_repeats > 1).any():
            if not self._reads_at_entry:
                return None
            return [_Entry(1, self._records.pop(ordinal, None)) for ordinal in planned.ordinal.tolist()]
        entries = []
        for ordinal, repeat, num_repeats in zip(
            planned.ordinal.tolist(), planned.repeat.tolist(), planned.num_repeats.tolist(), strict=True
        ):
            # After a resume the first use met may be a later repeat: what is left counts from there.
            entry = self._store.get(ordinal) or _Entry(num_repeats - repeat, self._records.pop(ordinal, None))
            if repeat == num_repeats - 1:
                self._store.pop(ordinal, None)
            else:
                self._store[ordinal] = entry
            entries.append(entry)
        return entries

    def _repeat(self, planned: PlannedBatch) -> _Job:
        assert self._pool is not None
        original = self._echoed.get(planned.batch_ordinal)
        if original is None:
            original = self._assemble(planned)
            original.num_users = planned.num_batch_repeats - planned.batch_repeat
            self._echoed[planned.batch_ordinal] = original
        if planned.batch_repeat == planned.num_batch_repeats - 1:
            del self._echoed[planned.batch_ordinal]
        job = _Job(planned, self._pool, num_tasks=1)
        self._tasks.append(_RepeatTask(job, original, share=self._shares_repeats))
        return job


class _Work:
    """What a worker does to a chunk; the same for all, and stateless but for the meter."""

    def __init__(self, source: Source, stages: Sequence[Stage], *, echo_after: str, seed: int, meter: Meter) -> None:
        names = stage_names(stages)
        require(
            echo_after in names,
            "echo.after",
            echo_after,
            allowed=", ".join(names),
            cure="Name a stage of the pipeline.",
        )
        self._source = source
        self.echoes_items = echo_after not in (BATCH, DEVICE)
        num_upstream = names.index(echo_after) if self.echoes_items else len(stages)
        streams = {stage.name: KeyStream(seed, f"stage.{stage.name}") for stage in stages if stage.random}
        self._upstream = [(stage, streams.get(stage.name)) for stage in stages[:num_upstream]]
        self._downstream = [(stage, streams.get(stage.name)) for stage in stages[num_upstream:]]
        self.meter = meter

    def read(self, epochs: Ids, shards: Ids, ks: Ids) -> Chunk:
        """The records at these positions."""
        started = time.perf_counter()
        try:
            chunk = self._source.read(shards, ks)
            if chunk_length(chunk) != len(ks):
                raise ValueError(f"{len(ks)} records were asked for, {chunk_length(chunk)} came")
        except Exception as error:
            also = f" (or the {len(ks) - 1} read with it)" if len(ks) > 1 else ""
            raise ExampleError(READ, _named(epochs[0], shards[0], ks[0]) + also, error) from error
        self.meter.add_upstream(time.perf_counter() - started, num_reads=len(ks))
        return chunk

    def upstream(self, planned: PlannedBatch, rows: Any, records: Sequence[_Entry | None]) -> Chunk:
        """Read, where ``records`` (one per row) has None, and do every stage up to the echo point: the same for every
        use of an item."""
        chunk = self._records(planned, rows, records)
        started = time.perf_counter()
        where = partial(_where, planned, rows)
        shards, ks = planned.shard[rows], planned.k[rows]
        for stage, stream in self._upstream:
            # Repeat 0 for all: whichever use happens to come first, the result is that of the first.
            keys = stream.keys(planned.epoch[rows], shards, ks, 0) if stream is not None else None
            chunk = run_stage(stage, chunk, keys, where)
        self.meter.add_upstream(time.perf_counter() - started)
        return chunk

    def _records(self, planned: PlannedBatch, rows: Any, records: Sequence[_Entry | None]) -> Chunk:
        epochs, shards, ks = planned.epoch[rows], planned.shard[rows], planned.k[rows]
        missing = [number for number, record in enumerate(records) if record is None]
        if len(missing) == len(records):
            return self.read(epochs, shards, ks)
        # What had entered before a resume was not read at entry.
        read = iter(as_examples(self.read(epochs[missing], shards[missing], ks[missing])) if missing else ())
        return [next(read) if record is None else record.use(self.meter) for record in records]

    def downstream(self, planned: PlannedBatch, rows: slice, chunk: Chunk) -> Arrays:
        """Every stage after the echo point, and rows ready to be written."""
        where = partial(_where, planned, rows)
        for stage, stream in self._downstream:
            keys = None
            if stream is not None:
                keys = stream.keys(planned.epoch[rows], planned.shard[rows], planned.k[rows], planned.repeat[rows])
            chunk = run_stage(stage, chunk, keys, where)
        try:
            return as_rows(chunk)
        except Exception as error:
            raise ExampleError(BATCH, where(0), error) from error


class _Job:
    """One batch on its way."""

    def __init__(self, planned: PlannedBatch | None, pool: BatchPool | None, *, num_tasks: int) -> None:
        self.planned = planned
        self.error: BaseException | None = None
        self.arrays: Arrays | None = None
        self.num_users = 1
        self._pool = pool
        self._owns_arrays = True
        self._num_left = num_tasks
        self._arrays_lock = threading.Lock()
        self._done = threading.Event()

    @classmethod
    def failed(cls, error: BaseException) -> _Job:
        job = cls(None, None, num_tasks=0)
        job.error = error
        return job

    @property
    def finished(self) -> bool:
        return self._num_left == 0 or self.error is not None

    def task_done(self, error: BaseException | None) -> None:
        self._num_left -= 1
        self.error = self.error or error
        if self.finished:
            self._done.set()

    def write(self, start: int, rows: Arrays) -> None:
        """Write rows in place; the first to come shape the arrays."""
        assert self._pool is not None and self.planned is not None
        with self._arrays_lock:
            if self.arrays is None:
                self.arrays = self._pool.take(rows)
        try:
            write_rows(self.arrays, start, rows)
        except ValueError as error:
            raise ExampleError(BATCH, _where(self.planned, slice(start, None), 0), error) from error

    def wait(self) -> Arrays:
        """The finished arrays of a batch that is echoed. Its tasks were all taken before the caller's, so some other
        worker is on the last of them, and this cannot wait for itself."""
        self._done.wait()
        if self.error is not None:
            raise self.error
        assert self.arrays is not None
        return self.arrays

    def copy_from(self, original: _Job, *, share: bool) -> None:
        arrays = original.wait()
        if share:
            self.arrays, self._owns_arrays = arrays, False
            return
        assert self._pool is not None
        self.arrays = self._pool.take(arrays)
        for name, values in arrays.items():
            self.arrays[name][...] = values
        with original._arrays_lock:
            original.num_users -= 1
            unused = original.num_users == 0
        if unused:
            self._pool.give(arrays)

    def batch(self, pool: BatchPool | None) -> Batch:
        planned, arrays = self.planned, self.arrays
        assert planned is not None and arrays is not None and pool is not None
        weights = np.ones(len(planned), dtype=np.float32)
        if planned.num_valid < len(planned):
            weights[planned.num_valid :] = 0
            for values in arrays.values():
                values[planned.num_valid :] = values[0]
        return Batch(arrays, weights, planned, [partial(pool.give, arrays)] if self._owns_arrays else [])


class _Task(abc.ABC):
    """A piece of work, done by one worker."""

    @property
    @abc.abstractmethod
    def job(self) -> _Job | None:
        """The batch that it is for, if it is for one."""

    @abc.abstractmethod
    def run(self, work: _Work) -> None:
        """Do it; an exception fails the job."""


class _ReadTask(_Task):
    """Read some of the items that enter the plan. A failure is told by the batch that first needs the record."""

    job = None

    def __init__(self, items: Ids, records: list[_Entry]) -> None:
        self._items, self._records = items, records

    def run(self, work: _Work) -> None:
        try:
            results = as_examples(work.read(*self._items.T[1:]))
        except BaseException as error:
            for record in self._records:
                record.fail(error)
            return
        for record, result in zip(self._records, results, strict=True):
            record.hold(result, work.meter)


class _ChunkTask(_Task):
    """A few rows of a batch, from reading to writing."""

    def __init__(self, job: _Job, rows: slice, entries: list[_Entry] | None) -> None:
        self._job, self._rows, self._entries = job, rows, entries

    @property
    def job(self) -> _Job:
        return self._job

    def run(self, work: _Work) -> None:
        planned, rows = self.job.planned, self._rows
        assert planned is not None
        if self._entries is None:
            chunk = work.upstream(planned, rows, [None] * (rows.stop - rows.start))
        else:
            chunk = self._from_store(work, self._entries)
        started = time.perf_counter()
        self.job.write(rows.start, work.downstream(planned, rows, chunk))
        work.meter.add_downstream(time.perf_counter() - started)

    def _from_store(self, work: _Work, entries: list[_Entry]) -> list[Example]:
        planned = self.job.planned
        assert planned is not None
        mine = [number for number, entry in enumerate(entries) if entry.claim()]
        if mine:
            try:
                rows = self._rows.start + np.array(mine)
                results = as_examples(work.upstream(planned, rows, [entries[number].record for number in mine]))
            except BaseException as error:
                for number in mine:
                    entries[number].fail(error)
                raise
            for number, result in zip(mine, results, strict=True):
                entries[number].fulfil(result, work.meter)
        return [entry.use(work.meter) for entry in entries]


class _RepeatTask(_Task):
    """One repeat of a whole batch."""

    def __init__(self, job: _Job, original: _Job, *, share: bool) -> None:
        self._job, self._original, self._share = job, original, share

    @property
    def job(self) -> _Job:
        return self._job

    def run(self, work: _Work) -> None:
        self.job.copy_from(self._original, share=self._share)


class _Entry:
    """A stored result: computed by the worker that claims it first, awaited by the others, gone after its last use."""

    def __init__(self, num_uses: int, record: _Entry | None = None) -> None:
        self.record = record  # what it is made from, where that was read before
        self._lock = threading.Lock()
        self._num_left = num_uses
        self._claimed = False
        self._ready: threading.Event | None = None
        self._result: Example = None
        self._error: BaseException | None = None
        self._num_bytes = 0
        self._done = False

    def claim(self) -> bool:
        """Whether the caller is to compute this result. It computes all it claims before it waits for any other."""
        with self._lock:
            first = not self._claimed
            self._claimed = True
            return first

    def fulfil(self, result: Example, meter: Meter) -> None:
        """The result is there; it is kept if there are uses after the one that it was computed for."""
        self.record = None
        if self._num_left > 1:
            self.hold(result, meter)
        else:
            self._finish(result, None)

    def hold(self, result: Example, meter: Meter) -> None:
        """The result is there, and waits for its uses."""
        result = frozen(result)
        self._num_bytes = num_bytes(result)
        meter.add_stored(self._num_bytes)
        self._finish(result, None)

    def fail(self, error: BaseException) -> None:
        self._finish(None, error)

    def use(self, meter: Meter) -> Example:
        """The result, once it is there: a dictionary of the caller's own with arrays that nobody can write into."""
        with self._lock:
            if not self._done and self._ready is None:
                self._ready = threading.Event()
        if self._ready is not None:
            self._ready.wait()
        if self._error is not None:
            raise self._error
        with self._lock:
            result = self._result
            self._num_left -= 1
            last = self._num_left == 0
            if last:
                self._result = None
        if last and self._num_bytes:
            meter.add_stored(-self._num_bytes)
        return own(result)

    def _finish(self, result: Example, error: BaseException | None) -> None:
        with self._lock:
            self._result, self._error = result, error
            self._done = True
            if self._ready is not None:
                self._ready.set()


def _where(planned: PlannedBatch, rows: Any, number: int) -> str:
    return _named(planned.epoch[rows][number], planned.shard[rows][number], planned.k[rows][number])


def _named(epoch: np.int64, shard: np.int64, k: np.int64) -> str:
    return f"example {k} of shard {shard} (epoch {epoch})"
