"""The executor: workers that turn planned batches into arrays, computing each upstream result once.

Workers pull. A worker without a piece of work plans the next batch, if the look-ahead allows, and cuts it into pieces;
results of the stage before the echo point are kept from first need to last use. Batches leave in plan order whatever
the number of workers, and nothing about their content depends on timing.

What is read when (see :class:`Source`): at an item's first use, by the worker; when its batch is planned, by readers;
or when the item enters the plan, in source order, from shards that were fetched ahead.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.batch import MAX_HANDED_ON, Arrays, Batch, BatchPool, Layout
from dataecho.pipeline.crew import Crew, ThreadCrew
from dataecho.pipeline.heap import keep_freed_memory
from dataecho.pipeline.job import Job
from dataecho.pipeline.memory import MIB
from dataecho.pipeline.meter import Meter
from dataecho.pipeline.pace import ChunkSize, Pace
from dataecho.pipeline.processes import ProcessCrew
from dataecho.pipeline.read_ahead import Closed, ReadAhead
from dataecho.pipeline.rows import Rows
from dataecho.pipeline.shelf import Shelf, Spill
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import DEVICE, Stage
from dataecho.pipeline.store import Entry
from dataecho.pipeline.tasks import ReadTask, RepeatTask, RowsTask, Task, WholeTask
from dataecho.pipeline.tolerance import Tolerance
from dataecho.pipeline.work import Work
from dataecho.plan.order import Ids
from dataecho.plan.plan import PlannedBatch

_WORKER, _READER = "worker", "reader"
_READS_AT_ONCE = 16  # of items that enter the plan


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """``num_threads`` workers, or ``num_processes`` instead where that is not 0; ``look_ahead`` batches at most are in
    work or waiting; ``chunk_size`` uses are worked on at a time, ``auto`` or a number (see :class:`Pace`);
    ``loop_helps``: whoever waits for a batch does short pieces of what the worker threads have to do;
    ``read_ahead`` shards are fetched ahead of the plan. ``max_waiting`` MiB of records that were read before their
    first use stay in memory, ``max_spill`` MiB more in a temporary file. ``max_skipped_share`` of the examples may be
    broken. ``hands_on``: small batches may be arrays as the last stage made them, views perhaps, and not rows of the
    pool, which begin where frameworks like it. None of them changes what a batch is made of.
    """

    num_threads: int = 2
    num_processes: int = 0
    look_ahead: int = 4
    chunk_size: ChunkSize = "auto"
    loop_helps: bool = True
    read_ahead: int = 4
    max_waiting: int = 1024
    max_spill: int = 16384
    max_skipped_share: float = 0.0
    hands_on: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("num_threads", 1),
            ("num_processes", 0),
            ("look_ahead", 1),
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
        require(
            self.chunk_size == "auto" or (isinstance(self.chunk_size, int) and self.chunk_size >= 1),
            "pipeline.chunk_size",
            self.chunk_size,
            allowed="auto, or whole numbers >= 1",
            cure="auto goes by what an example costs.",
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
        self._reads_at_entry = reads_at_entry(source)
        self._reads_when_planned = source.num_readers > 0
        self._reads_memory = source.is_in_memory
        #: Whether batches can be made whole: nothing is kept of them, and nobody waits for what they are made from.
        self._makes_whole = not (
            settings.num_processes or self._work.echoes_items or self._reads_at_entry or self._reads_when_planned
        )
        #: Whether batches are what the last stage makes, unless they are large, padded or have a broken example. What
        #: the pipeline is decides, not how fast it is, for the arrays of all batches should be alike.
        self._hands_on = (
            settings.hands_on
            and self._makes_whole
            and source.is_in_memory
            and all(stage.batched for stage in stages)
            and settings.chunk_size == "auto"
            and settings.look_ahead >= 2 * settings.num_threads
        )
        # Every worker may make as many at once, and as many can be delivered meanwhile.
        self._pace = Pace(
            settings.chunk_size,
            most_batches=max(1, settings.look_ahead // (settings.num_workers + 1)),
            least_pieces=-(-2 * settings.num_workers // settings.look_ahead),
        )
        self._crew: Crew = (
            ProcessCrew(
                self._work,
                stages,
                self.meter,
                echo_after=echo_after,
                seed=seed,
                num_workers=settings.num_processes,
                pace=self._pace,
            )
            if settings.num_processes
            else ThreadCrew(self._work, self.meter, self._pace)
        )
        self._tolerance = Tolerance(settings.max_skipped_share)
        self._shares_repeats = echo_after == DEVICE
        self._pool: BatchPool | None = None
        self._batch_size = 0
        self._lock = threading.Lock()
        self._has_work, self._has_batch = threading.Condition(self._lock), threading.Condition(self._lock)
        self._queues: list[deque[Task]] = [deque() for _ in range(self._crew.num_queues)]
        self._reads: deque[Task] = deque()
        self._jobs: deque[Job | BaseException] = deque()
        self._answers: deque[Job | BaseException] = deque()  # finished, and only the caller's: no lock is needed
        if self._reads_at_entry:
            read_ahead.on_enter = self._read_entered
        self._spill = Spill(max_bytes=settings.max_spill * MIB)
        self._shelf = Shelf(self.meter.add_waiting, max_bytes=settings.max_waiting * MIB, spill=self._spill)
        self._records: dict[int, Entry] = {}
        self._echoed: dict[int, Job] = {}
        self._num_active = {_WORKER: 0, _READER: 0}
        self._paused = {_WORKER: False, _READER: False}
        self._planning = self._exhausted = self._closed = False
        self._workers_rest = False
        self._delivered: float | None = None
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
        if not self._answers:
            raise StopIteration
        job = self._answers.popleft()
        if not self._workers_rest:
            self._tell_workers()
        try:
            if isinstance(job, BaseException):
                raise job
            if job.error is not None:
                raise job.error
            skipped = job.skipped(self._work)
            self._tolerance.met(job.planned.num_fresh, skipped)
            batch = job.batch(skipped, self._work)
            self.meter.delivered()
            if not self._answers:
                self._delivered = time.perf_counter()
            return batch
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
        if self._answers:
            return True
        if not self._started and not self._closed:  # not before: what is read before the clock runs would be free
            self._started = True
            keep_freed_memory()
            self._read_ahead.start(self.meter)
            for thread in self._threads:
                thread.start()
        with self._lock:
            if self._delivered is not None:
                away, self._delivered = time.perf_counter() - self._delivered, None
                self._let_workers_rest(self._is_cheap() and away < self._pace.seconds * self._batch_size)
            while not self._has_answer() and self._works_for_itself():
                pass
            if not self._has_answer():
                self._let_workers_rest(False)
                if not self._has_batch.wait_for(self._has_answer, timeout):
                    return False
            self._take_answers()
            return True

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
            self._answers.clear()
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

    def _take_answers(self) -> None:
        """What ``next`` answers with; where only the caller works, all that is finished, for a lock costs as much as to
        deliver a cheap batch."""
        while self._jobs and _is_finished(self._jobs[0]):
            self._answers.append(self._jobs.popleft())
            if not self._workers_rest:
                break

    def _tell_workers(self) -> None:
        """There is room for one more batch. To wake them for every batch costs more than it gives."""
        with self._lock:
            if len(self._jobs) <= self._settings.look_ahead // 2 or not self._is_ahead():
                self._has_work.notify_all()

    def _works_for_itself(self) -> bool:
        """The caller does what there is to do, rather than wait; whether there was anything. Of a cheap batch all of
        it, which is sooner done than handed over; otherwise a short piece that nobody has begun."""
        queue = self._queues[0]
        helps = self._is_cheap() or self._may_help(queue)
        task = self._take(_WORKER, queue, by_caller=True) if helps else None
        if task is None:
            return False
        self._lock.release()
        try:
            self._do(task, _WORKER, 0, queue)
        finally:
            self._lock.acquire()
        return True

    def _may_help(self, queue: deque[Task]) -> bool:
        """Whether the caller can do a worker's next piece. It must not read what may keep it waiting: a signal would
        find nobody."""
        if not self._settings.loop_helps or self._settings.num_processes or not self._is_short():
            return False
        return self._reads_memory or (len(queue) > 0 and queue[0].is_at_hand())

    def _let_workers_rest(self, rest: bool) -> None:
        """Whether only the caller plans: where it comes back sooner than a cheap batch is made, workers would be in its
        way."""
        if self._workers_rest and not rest:
            self._has_work.notify_all()
        self._workers_rest = rest

    def _stands_still(self, kind: str) -> bool:
        return self._num_active[kind] == 0

    def _has_answer(self) -> bool:
        if not self._jobs:
            return self._closed or self._exhausted
        return _is_finished(self._jobs[0])

    def _run(self, kind: str, number: int, queue: deque[Task]) -> None:
        while (task := self._next_task(kind, queue)) is not None:
            self._do(task, kind, number, queue)

    def _do(self, task: Task, kind: str, number: int, queue: deque[Task]) -> None:
        error: BaseException | None = None
        try:
            task.run(number)
        except BaseException as caught:
            error = caught
        with self._lock:
            self._num_active[kind] -= 1
            if error is not None and (smaller := task.apart()):
                queue.extendleft(reversed(smaller))
            else:
                self._done(task, error, queue)
            if self._paused[kind] or self._has_answer():
                self._has_batch.notify_all()

    def _done(self, task: Task, error: BaseException | None, queue: deque[Task]) -> None:
        for job in task.jobs:
            if job.task_done(error) and job.repeats:
                queue.extend(job.repeats)
                self._has_work.notify_all()

    def _next_task(self, kind: str, queue: deque[Task]) -> Task | None:
        with self._lock:
            while (task := self._take(kind, queue)) is None and not self._closed:
                self._has_work.wait()
            return task

    def _take(self, kind: str, queue: deque[Task], *, by_caller: bool = False) -> Task | None:
        """What there is to do, planned if need be; under the lock."""
        while not self._closed and not self._paused[kind]:
            if kind == _WORKER and self._num_active[kind] and self._is_ahead():
                break
            may_plan = kind == _WORKER and (by_caller or not self._workers_rest) and self._may_plan()
            if queue and not (may_plan and self._waits_for_reader(queue[0])):
                self._num_active[kind] += 1
                return queue.popleft()
            if not may_plan:
                break
            self._plan_next()
        return None

    def _waits_for_reader(self, task: Task) -> bool:
        """Whether a worker would only wait with this piece. First it plans what it may, so that readers do not run out
        of work meanwhile."""
        return self._reads_when_planned and not task.is_at_hand()

    def _is_ahead(self) -> bool:
        """Whether half of the look-ahead is finished, so that one thread is enough for the rest: the loop has more use
        for the cores. Worker processes have queues of their own, and none can stand in for another."""
        enough = self._settings.look_ahead // 2
        if not enough or len(self._queues) > 1 or len(self._jobs) < enough:
            return False
        return all(map(_is_finished, itertools.islice(self._jobs, enough)))

    def _is_cheap(self) -> bool:
        """Whether a batch is made sooner than somebody else would take it over."""
        return self._num_whole() > 0 and self._pace.is_moment(self._batch_size)

    def _is_short(self) -> bool:
        """Whether a piece is done soon enough for whoever waits to do one."""
        return self._pace.is_short(self._batch_size if self._num_whole() else 0)

    def _may_plan(self) -> bool:
        room = self._settings.look_ahead - len(self._jobs) - len(self._answers)
        return not self._planning and not self._exhausted and room >= max(1, self._num_whole())

    def _plan_next(self) -> None:
        """Cut the next batches into tasks. One worker at a time, in plan order, so the store knows every use in
        advance; the lock is let go while the plan waits for a shard."""
        self._planning = True
        count = max(1, self._num_whole())
        self._lock.release()
        batches: list[PlannedBatch] = []
        error: BaseException | None = None
        try:
            for _ in range(count):
                batches.append(next(self._planned))
        except BaseException as caught:  # a source that cannot be opened: told where its batch would have been
            error = caught
        finally:
            self._lock.acquire()
            self._planning = False
        if self._closed:
            return
        if self._pool is None and batches:
            self._batch_size = len(batches[0])
            self._pool = BatchPool(self._allocate, self.meter.add_batches)
        for is_repeated, group in itertools.groupby(batches, key=_is_repeated):
            some = list(group)
            self._jobs.extend(map(self._repeat, some) if is_repeated else self._assemble(some))
        if not self._workers_rest:
            self._has_work.notify_all()
        if error is not None:
            self._exhausted = True
            if not isinstance(error, StopIteration | Closed):
                self._jobs.append(error)
            self._has_batch.notify_all()

    def _num_whole(self) -> int:
        """Batches to make at once; 0 where they are cut."""
        if self._pool is None or not self._makes_whole:
            return 0
        is_one = self._hands_on and self._pool.batch_bytes <= MAX_HANDED_ON
        return self._pace.num_batches(self._batch_size) or int(is_one)

    def _read_entered(self, items: Ids) -> None:
        with self._lock:
            if self._closed:
                raise Closed
            self._read(items, _READS_AT_ONCE, is_entry=True)
            self._has_work.notify_all()

    def _allocate(self, layout: Layout, num_batches: int) -> Arrays:
        return self._crew.allocate(layout, num_batches * self._batch_size)

    def _read(self, items: Ids, size: int, *, is_entry: bool) -> None:
        """Queue the reads of these items (columns as in ``ITEM_COLUMNS``), before anything that needs them."""
        for start in range(0, len(items), size):
            part = items[start : start + size]
            records = [Entry(self._shelf, 1) for _ in part]
            self._records.update(zip(part[:, 0].tolist(), records, strict=True))
            self._reads.append(ReadTask(part, records, self._work, self._read_ahead, self.meter, is_entry=is_entry))

    def _assemble(self, batches: Sequence[PlannedBatch]) -> list[Job]:
        assert self._pool is not None
        if len(batches) > 1 or self._num_whole():
            jobs = [Job(planned, self._pool, num_tasks=1) for planned in batches]
            self._queues[0].append(WholeTask(jobs, self._work, self.meter, self._pace, hands_on=self._hands_on))
            return jobs
        (planned,) = batches
        rows = Rows.of(planned)
        if self._reads_when_planned:
            self._read(self._not_read(rows), 1, is_entry=False)
        pieces = self._crew.cut(rows, self._records)
        job = Job(planned, self._pool, num_tasks=len(pieces))
        for queue, part, material in pieces:
            self._queues[queue].append(RowsTask(job, part, material, self._crew))
        return [job]

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
            (original,) = self._assemble([planned])
            original.num_users = planned.num_batch_repeats - planned.batch_repeat
            self._echoed[planned.batch_ordinal] = original
        if planned.batch_repeat == planned.num_batch_repeats - 1:
            del self._echoed[planned.batch_ordinal]
        job = Job(planned, self._pool, num_tasks=1)
        task = RepeatTask(job, original, self.meter, share=self._shares_repeats)
        if original.finished:
            self._queues[planned.batch_ordinal % len(self._queues)].append(task)
        else:
            original.repeats.append(task)
        return job


def _is_repeated(planned: PlannedBatch) -> bool:
    return planned.num_batch_repeats > 1


def _is_finished(job: Job | BaseException) -> bool:
    return isinstance(job, BaseException) or job.finished
