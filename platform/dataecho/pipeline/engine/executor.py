"""The executor: carries a plan out, computing each upstream result once. The engine behind it does the work.

Batches leave in plan order whatever works on them, and nothing about their content depends on timing. What is read when
(see :class:`Source`): at an item's first use, by a worker; when its batch is planned, by readers; or when the item
enters the plan, in source order, from shards that were fetched ahead.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from dataecho.pipeline.accounting.error_budget import ErrorBudget
from dataecho.pipeline.accounting.memory import MIB
from dataecho.pipeline.accounting.meter import Meter
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.engine.board import Board, Failure, Role
from dataecho.pipeline.engine.cutter import Cutter
from dataecho.pipeline.engine.engine import CallerEngine, Engine, ThreadEngine
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.engine.planner import AnyPlan, Planner
from dataecho.pipeline.engine.visits import ShardVisits, Visit
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.engine.workers import ThreadWorkers, Workers
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage
from dataecho.pipeline.storage.spill import Spill, SpillCache

if TYPE_CHECKING:
    from dataecho.pipeline.engine.processes import WorkerPool


def reads_at_entry(source: Source) -> bool:
    """Whether an example is read when it enters the plan, not when it is first used."""
    return source.num_fetches > 0 or not source.random_access


class Executor:
    """Iterator of :class:`Batch` in the order of ``plan``. A context manager: leaving it stops every worker; the first
    ``next`` starts them. What is not closed is closed when nobody holds it any more, or when the interpreter ends.

    What comes before the ``echo`` point is computed once per item (or per batch, for ``batch``
    and ``device``) and kept until the plan's last use of it. Under ``batch`` every repeat is delivered as a copy of its
    own; under ``device`` all repeats share their arrays, for the caller keeps the batch resident. An example that
    fails beyond ``max_skipped_share`` raises :class:`ExampleError` from ``next`` at its batch, after the batches
    before it; after an error the executor is closed, and raises it again. ``lengths`` and ``visits`` are those of the
    plan; ``pool`` has worker processes for this and other executors.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        plan: AnyPlan,
        *,
        echo: EchoPoint,
        seed: int,
        lengths: dict[int, int],
        visits: Iterator[Visit],
        settings: PipelineSettings,
        pool: WorkerPool | None = None,
    ) -> None:
        self._work = Work(source, stages, echo=echo, seed=seed)
        self.meter = Meter(self._work.upstream_names)
        self._error_budget = ErrorBudget(settings.max_skipped_share)
        self._error: BaseException | None = None
        self._engine = _engine(source, stages, plan, self._work, self.meter, seed, lengths, visits, settings, pool)
        self._finalizer = weakref.finalize(self, _close, self._engine)

    def __iter__(self) -> Executor:
        return self

    def __next__(self) -> Batch:
        if self._error is not None:
            raise self._error
        try:
            while not self._engine.ready(timeout=60):
                if self._engine.is_paused:
                    raise RuntimeError("The feed stands still, and nothing is finished. resume() lets it go on.")
        except Exception as error:
            self._fail(error)
            raise
        try:
            job = self._engine.answer()
            if job is None:
                raise StopIteration
            if job.error is not None:
                raise job.error
            assert not isinstance(job, Failure)
            skipped = job.skipped(self._work)
            self._error_budget.met(job.planned.num_fresh, skipped)
            batch = job.batch(skipped, self._work)
            self.meter.delivered()
            return batch
        except StopIteration:
            raise
        except BaseException as error:  # of whatever kind: the batch that was taken is not to be missed in silence
            self._fail(error)
            raise

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ready(self, *, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; whether ``next`` has its answer, be it a batch, an error or the end. Where
        the caller makes its batches, at least one piece of work is done. Raises :class:`StallError`."""
        return self._error is not None or self._engine.ready(timeout=timeout)

    def pause(self, *, timeout: float | None = None) -> bool:
        """Stop working; whether everybody stands still, after at most ``timeout`` seconds (None: when they do). A
        paused clock must not give free input. To be called again until it is true."""
        return self._engine.pause(timeout=timeout)

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._engine.resume()

    def close(self) -> None:
        """Stop every worker and forget what is ahead, within a few seconds: a process that does not end is killed, a
        thread that does not is named in the log. May be called again."""
        self._engine.close()
        self._finalizer.detach()  # it would keep alive whatever an error leads to

    def _fail(self, error: BaseException) -> None:
        self._error = error if isinstance(error, Exception) else RuntimeError(f"The feed was closed by {error!r}.")
        self.close()


def _close(engine: Engine) -> None:
    """For an executor that nobody holds any more, in whatever thread that shows."""
    if isinstance(engine, ThreadEngine) and engine.is_own(threading.current_thread()):
        threading.Thread(target=engine.close, name="dataecho-close", daemon=True).start()
    else:
        engine.close()


def _engine(
    source: Source,
    stages: Sequence[Stage],
    plan: AnyPlan,
    work: Work,
    meter: Meter,
    seed: int,
    lengths: dict[int, int],
    visits: Iterator[Visit],
    settings: PipelineSettings,
    pool: WorkerPool | None,
) -> Engine:
    """The parts, put together."""
    at_entry, fetches = reads_at_entry(source), source.num_fetches > 0
    makes_whole = not (settings.num_processes or work.echo.echoes_items or at_entry or source.num_readers)
    # What the pipeline is decides, not how fast it is, for the arrays of all batches should be alike.
    hands_on = (
        settings.hands_on
        and makes_whole
        and source.is_in_memory
        and all(stage.batched for stage in stages)
        and settings.chunk_size == "auto"
        and settings.look_ahead >= 2 * settings.num_threads
    )
    num_threads = settings.num_processes or settings.num_threads
    # Every worker may make as many batches at once, and as many can be delivered meanwhile.
    pace = Pace(
        settings.chunk_size,
        most_batches=max(1, settings.look_ahead // (num_threads + 1)),
        least_pieces=-(-2 * num_threads // settings.look_ahead),
    )
    workers: Workers
    if settings.num_processes:
        from dataecho.pipeline.engine.processes import ProcessWorkers

        workers = ProcessWorkers(
            work,
            stages,
            meter,
            seed=seed,
            num_workers=settings.num_processes,
            pace=pace,
            pool=pool,
        )
    else:
        workers = ThreadWorkers(work, meter, pace)
    spill = Spill(max_bytes=settings.max_spill * MIB)
    num_readers = source.num_readers or (1 if at_entry else 0)
    board = Board(
        source,
        Planner(plan, reads_at_entry=at_entry),
        Cutter(
            work,
            workers,
            SpillCache(meter.add_waiting, max_bytes=settings.max_waiting * MIB, spill=spill),
            meter,
            pace,
            makes_whole=makes_whole,
            hands_on=hands_on,
            reads_when_planned=source.num_readers > 0 and not at_entry,
            shares_repeats=work.echo.stays_on_device,
        ),
        meter,
        lengths=lengths,
        visits=ShardVisits(visits, lengths, num_ahead=max(settings.read_ahead, source.num_fetches))
        if fetches
        else None,
        look_ahead=settings.look_ahead,
        num_queues=workers.num_queues,
        has_readers=num_readers > 0,
        plans_first=num_readers > 0,
    )
    if not num_threads:
        return CallerEngine(board, source, workers, spill)
    return ThreadEngine(
        board,
        source,
        workers,
        spill,
        num_threads={Role.WORKER: num_threads, Role.READER: num_readers, Role.FETCHER: source.num_fetches},
        stall_timeout=settings.stall_timeout,
        helper=pace if settings.loop_helps and not settings.num_processes else None,
    )
