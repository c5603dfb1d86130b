"""The executor: workers that turn planned batches into arrays, computing each upstream result once.

Workers pull. A worker without a piece of work plans the next batch, if the look-ahead allows, and cuts it into pieces;
results of the stage before the echo point are kept from first need to last use. Batches leave in plan order whatever
the number of workers, and nothing about their content depends on timing.

What is read when (see :class:`Source`): at an item's first use, by the worker; when its batch is planned, by readers;
or when the item enters the plan, in source order, from shards that were fetched ahead.
"""

from __future__ import annotations

import abc
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.batch import Arrays, Batch, BatchPool, Layout
from dataecho.pipeline.crew import Crew, Material, ThreadCrew
from dataecho.pipeline.job import Job
from dataecho.pipeline.memory import MIB
from dataecho.pipeline.meter import Meter, Times
from dataecho.pipeline.processes import ProcessCrew
from dataecho.pipeline.read_ahead import Closed, ReadAhead
from dataecho.pipeline.rows import Rows
from dataecho.pipeline.shelf import Shelf, Spill
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import BATCH, DEVICE, Stage, as_examples
from dataecho.pipeline.store import Entry
from dataecho.pipeline.tolerance import Tolerance
from dataecho.pipeline.work import Work
from dataecho.plan.order import Ids
from dataecho.plan.plan import PlannedBatch

_WORKER, _READER = "worker", "reader"


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """``num_threads`` workers, or ``num_processes`` instead where that is not 0; ``look_ahead`` batches at most are in
    work or waiting; ``chunk_size`` uses are worked on at a time; ``read_ahead`` shards are fetched ahead of the plan.
    ``max_waiting`` MiB of records that were read before their first use stay in memory, ``max_spill`` MiB more in a
    temporary file. ``max_skipped_share`` of the examples may be broken. None of them changes what a batch is made of.
    """

    num_threads: int = 2
    num_processes: int = 0
    look_ahead: int = 4
    chunk_size: int = 8
    read_ahead: int = 4
    max_waiting: int = 1024
    max_spill: int = 16384
    max_skipped_share: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (
            ("num_threads", 1),
            ("num_processes", 0),
            ("look_ahead", 1),
            ("chunk_size", 1),
            ("read_ahead", 1),
            ("max_waiting", 0),
            ("max_spill", 0),
        ):
            value = getattr(self, name)
            require(
                value >= least,
                f"pipeline.{name}",
                value,
                allowed=f"whole numbers >= {least}",
                cure=f"Set pipeline.{name}.",
            )

    @property
    def num_workers(self) -> int:
        """Threads or processes."""
        return self.num_processes or self.num_threads


def reads_at_entry(source: Source) -> bool:
    """Whether an example is read when it enters the plan, not when it is first used."""
    return source.num_fetches > 0 or not source.random_access


class Executor:
    """Iterator of :class:`Batch` in the order of ``planned``. A context manager: leaving it stops every worker; the
    first ``next`` starts them.

    ``echo_after`` is a stage's own name: what comes before it is computed once per item (or per batch, for ``batch``
    and ``device``) and kept until the plan's last use of it. Under ``batch`` every repeat is delivered as a copy of its
    own; under ``device`` all repeats share their arrays, for the caller keeps the batch resident. An example that
    fails beyond ``max_skipped_share`` raises :class:`ExampleError` from ``next`` at its batch, after the batches
    before it.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        planned: Iterator[PlannedBatch],
        *,
        echo_after: str,
        seed: int,
        read_ahead: ReadAhead,
        settings: ExecutorSettings,
    ) -> None:
        self._planned = planned
        self._settings = settings
        self._read_ahead = read_ahead
        self._work = Work(source, stages, echo_after=echo_after, seed=seed)
        self.meter = Meter(self._work.upstream_names)
        self._crew: Crew = (
            ProcessCrew(
                self._work,
                stages,
                self.meter,
                echo_after=echo_after,
                seed=seed,
                num_workers=settings.num_processes,
                chunk_size=settings.chunk_size,
            )
            if settings.num_processes
            else ThreadCrew(self._work, self.meter, chunk_size=settings.chunk_size)
        )
        self._tolerance = Tolerance(settings.max_skipped_share)
        self._shares_repeats = echo_after == DEVICE
        self._pool: BatchPool | None = None
        self._lock = threading.Lock()
        self._has_work, self._has_batch = threading.Condition(self._lock), threading.Condition(self._lock)
        self._queues: list[deque[_Task]] = [deque() for _ in range(self._crew.num_queues)]
        self._reads: deque[_Task] = deque()
        self._jobs: deque[Job | BaseException] = deque()
        self._reads_at_entry = reads_at_entry(source)
        if self._reads_at_entry:
            read_ahead.on_enter = self._read_entered
        self._reads_when_planned = source.num_readers > 0
        self._spill = Spill(max_bytes=settings.max_spill * MIB)
        self._shelf = Shelf(self.meter.add_waiting, max_bytes=settings.max_waiting * MIB, spill=self._spill)
        self._records: dict[int, Entry] = {}
        self._echoed: dict[int, Job] = {}
        self._num_active = {_WORKER: 0, _READER: 0}
        self._paused = {_WORKER: False, _READER: False}
        self._planning = self._exhausted = self._closed = False
        num_readers = source.num_readers or (1 if self._reads_at_entry else 0)
        self._threads = [
            threading.Thread(
                target=self._run, args=(kind, number, queue), name=f"dataecho-{kind}-{number}", daemon=True
            )
            for kind, number, queue in (
                *(
                    (_WORKER, number, self._queues[number % len(self._queues)])
                    for number in range(settings.num_workers)
                ),
                *((_READER, number, self._reads) for number in range(num_readers)),
            )
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
            if (
                len(self._jobs) <= self._settings.look_ahead // 2
            ):  # to wake workers for every batch costs more than it gives
                self._has_work.notify_all()
        try:
            if isinstance(job, BaseException):
                raise job
            if job.error is not None:
                raise job.error
            self._tolerance.met(int((job.planned.repeat == 0).sum()), job.skipped(self._work))
            self.meter.delivered()
            return job.batch(self._work)
        except BaseException:
            self.close()
            raise

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
            self._read_ahead.start(self.meter)
            for thread in self._threads:
                thread.start()
        with self._lock:
            return self._has_batch.wait_for(self._has_answer, timeout)

    def pause(self, *, timeout: float | None = None) -> bool:
        """Stop working; whether everybody stands still, after at most ``timeout`` seconds (None: when they do). A
        paused clock must not give free input. To be called again until it is true."""
        with self._lock:
            for kind in (_WORKER, _READER):  # in this order: a worker may be waiting for a reader
                self._paused[kind] = True
                if not self._has_batch.wait_for(partial(self._stands_still, kind), timeout):
                    return False
        self._read_ahead.pause()
        return True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._read_ahead.resume()
        with self._lock:
            self._paused = dict.fromkeys(self._paused, False)
            self._has_work.notify_all()

    def close(self) -> None:
        """Stop every worker, after the piece it is working on, and forget what is ahead. May be called again."""
        with self._lock:
            self._closed = True
            for queue in (*self._queues, self._reads):
                for task in queue:
                    task.abandon()
                queue.clear()
            self._jobs.clear()
            self._has_work.notify_all()
            self._has_batch.notify_all()
        self._read_ahead.stop()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()
        self._read_ahead.close()
        self._crew.close()
        self._spill.close()
        self._records.clear()
        self._echoed.clear()

    def _stands_still(self, kind: str) -> bool:
        return self._num_active[kind] == 0

    def _has_answer(self) -> bool:
        if not self._jobs:
            return self._closed or self._exhausted
        job = self._jobs[0]
        return isinstance(job, BaseException) or job.finished

    def _run(self, kind: str, number: int, queue: deque[_Task]) -> None:
        while (task := self._next_task(kind, queue)) is not None:
            error: BaseException | None = None
            try:
                task.run(number)
            except BaseException as caught:
                error = caught
            with self._lock:
                self._num_active[kind] -= 1
                if task.job is not None and task.job.task_done(error):
                    for repeat in task.job.repeats:
                        self._queues[number % len(self._queues)].append(repeat)
                        self._has_work.notify_all()
                if self._paused[kind] or self._has_answer():
                    self._has_batch.notify_all()

    def _next_task(self, kind: str, queue: deque[_Task]) -> _Task | None:
        with self._lock:
            while not self._closed:
                if not self._paused[kind]:
                    if queue:
                        self._num_active[kind] += 1
                        return queue.popleft()
                    if kind == _WORKER and self._may_plan():
                        self._plan_next()
                        continue
                self._has_work.wait()
            return None

    def _may_plan(self) -> bool:
        return not self._planning and not self._exhausted and len(self._jobs) < self._settings.look_ahead

    def _plan_next(self) -> None:
        """Cut the next batch into tasks. One worker at a time, in plan order, so the store knows every use in advance;
        the lock is let go while the plan waits for a shard."""
        self._planning = True
        self._lock.release()
        planned: PlannedBatch | None = None
        error: BaseException | None = None
        try:
            planned = next(self._planned)
        except BaseException as caught:  # a source that cannot be opened: told where its batch would have been
            error = caught
        finally:
            self._lock.acquire()
            self._planning = False
        if planned is None or error is not None:
            self._exhausted = True
            if error is not None and not isinstance(error, StopIteration | Closed):
                self._jobs.append(error)
            self._has_batch.notify_all()
            return
        if self._closed:
            return
        if self._pool is None:
            size = len(planned)
            self._pool = BatchPool(partial(self._allocate, size))
        self._jobs.append(self._assemble(planned) if planned.num_batch_repeats == 1 else self._repeat(planned))
        self._has_work.notify_all()

    def _read_entered(self, items: Ids) -> None:
        with self._lock:
            if self._closed:
                raise Closed
            self._read(items, self._settings.chunk_size, is_entry=True)
            self._has_work.notify_all()

    def _allocate(self, batch_size: int, layout: Layout) -> Arrays:
        arrays = self._crew.allocate(layout, batch_size)
        self.meter.add_batches(sum(values.nbytes for values in arrays.values()))
        return arrays

    def _read(self, items: Ids, size: int, *, is_entry: bool) -> None:
        """Queue the reads of these items (columns as in ``ITEM_COLUMNS``), before anything that needs them."""
        for start in range(0, len(items), size):
            part = items[start : start + size]
            records = [Entry(self._shelf, 1) for _ in part]
            self._records.update(zip(part[:, 0].tolist(), records, strict=True))
            self._reads.append(_ReadTask(part, records, self._work, self._read_ahead, self.meter, is_entry=is_entry))

    def _assemble(self, planned: PlannedBatch) -> Job:
        assert self._pool is not None
        rows = Rows.of(planned)
        if self._reads_when_planned:
            self._read(self._not_read(rows), 1, is_entry=False)
        pieces = self._crew.cut(rows, self._records)
        job = Job(planned, self._pool, num_tasks=len(pieces))
        for queue, part, material in pieces:
            self._queues[queue].append(_RowsTask(job, part, material, self._crew))
        return job

    def _not_read(self, rows: Rows) -> Ids:
        """The items among ``rows`` whose records are neither here nor on their way, nor needed."""
        wanted: dict[int, int] = {}
        for number, ordinal in enumerate(rows.ordinal.tolist()):
            if ordinal not in self._records and ordinal not in wanted and self._crew.lacks(ordinal):
                wanted[ordinal] = number
        which = np.array(list(wanted.values()), dtype=np.int64)
        return np.stack([rows.ordinal[which], rows.epoch[which], rows.shard[which], rows.k[which]], axis=1)

    def _repeat(self, planned: PlannedBatch) -> Job:
        assert self._pool is not None
        original = self._echoed.get(planned.batch_ordinal)
        if original is None:
            original = self._assemble(planned)
            original.num_users = planned.num_batch_repeats - planned.batch_repeat
            self._echoed[planned.batch_ordinal] = original
        if planned.batch_repeat == planned.num_batch_repeats - 1:
            del self._echoed[planned.batch_ordinal]
        job = Job(planned, self._pool, num_tasks=1)
        task = _RepeatTask(job, original, self.meter, share=self._shares_repeats)
        if original.finished:
            self._queues[planned.batch_ordinal % len(self._queues)].append(task)
        else:
            original.repeats.append(task)
        return job


class _Task(abc.ABC):
    """A piece of work, done by one worker or reader."""

    @property
    @abc.abstractmethod
    def job(self) -> Job | None:
        """The batch that it is for, if it is for one."""

    @abc.abstractmethod
    def run(self, number: int) -> None:
        """Do it, as this worker or reader; an exception fails the job."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """It will not be done: whoever waits for it is told so."""


class _ReadTask(_Task):
    """Read some items. A failure is told by the batch that first needs the record."""

    job = None

    def __init__(
        self, items: Ids, records: list[Entry], work: Work, read_ahead: ReadAhead, meter: Meter, *, is_entry: bool
    ) -> None:
        self._items, self._records = items, records
        self._work, self._read_ahead, self._meter, self._is_entry = work, read_ahead, meter, is_entry

    def run(self, number: int) -> None:
        epochs, shards, ks = self._items.T[1:]
        times = Times()
        try:
            with self._meter.transfer():
                results = as_examples(self._work.read(epochs, shards, ks, times))
        except BaseException as error:
            for record in self._records:
                record.fail(error)
        else:
            for record, result in zip(self._records, results, strict=True):
                record.hold(result)
        self._meter.add(times, by_worker=False)
        if self._is_entry:
            self._read_ahead.done(zip(epochs.tolist(), shards.tolist(), strict=True))

    def abandon(self) -> None:
        for record in self._records:
            record.fail(Closed())


class _RowsTask(_Task):
    """A few rows of a batch, from reading to writing."""

    def __init__(self, job: Job, rows: Rows, material: Material, crew: Crew) -> None:
        self._job, self._rows, self._material, self._crew = job, rows, material, crew

    @property
    def job(self) -> Job:
        return self._job

    def run(self, number: int) -> None:
        self._crew.make(number, self._job, self._rows, self._material)

    def abandon(self) -> None:
        pass


class _RepeatTask(_Task):
    """One repeat of a whole batch that is finished."""

    def __init__(self, job: Job, original: Job, meter: Meter, *, share: bool) -> None:
        self._job, self._original, self._meter, self._share = job, original, meter, share

    @property
    def job(self) -> Job:
        return self._job

    def run(self, number: int) -> None:
        times = Times()
        with times.of(BATCH, len(self._job.planned)):
            self._job.copy_from(self._original, share=self._share)
        self._meter.add(times)

    def abandon(self) -> None:
        pass
