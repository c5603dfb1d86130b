"""The workers that make rows: threads of this process here, other processes in ``processes.py``."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from dataecho.pipeline.accounting.meter import Meter, Times
from dataecho.pipeline.batch import Arrays, Layout, new_arrays
from dataecho.pipeline.engine.fill import fill
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.engine.piece import Piece
from dataecho.pipeline.engine.pieces import ResultsPiece, RowsPiece
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.storage.spill import SpillCache
from dataecho.pipeline.storage.store import Entry, Store


class Workers(abc.ABC):
    """A fixed number of workers, and how a batch is cut into pieces for them."""

    #: 1 where every worker takes pieces from one queue, else the number of workers.
    num_queues: int

    @abc.abstractmethod
    def allocate(self, layout: Layout, num_rows: int) -> Arrays:
        """Arrays that every worker can write to."""

    @abc.abstractmethod
    def lacks(self, ordinal: int) -> bool:
        """Whether the item has to be read for the next use that is planned."""

    @abc.abstractmethod
    def cut(self, rows: Rows, records: dict[int, Entry]) -> list[tuple[int, Rows, Sequence[Entry | None] | None]]:
        """Cut a batch, in the order of the plan: queue, rows, and what goes with them out of ``records`` (read before,
        by entry ordinal; what is used is removed)."""

    @abc.abstractmethod
    def pieces(self, job: Job, rows: Rows, material: Sequence[Entry | None] | None) -> list[Piece]:
        """The piece of work that makes these rows, after those that it needs and nobody has planned yet."""

    @abc.abstractmethod
    def make(self, worker: int, job: Job, rows: Rows, material: Sequence[Entry | None] | None) -> None:
        """Fill these rows of the job; called in a thread of this worker's own."""

    @abc.abstractmethod
    def helper(self, worker: int) -> str:
        """The process that works for this worker, as it is named after the worker; empty where there is none."""

    @abc.abstractmethod
    def stop(self, *, timeout: float) -> None:
        """Nobody wants the rest: end within about ``timeout`` seconds whatever is being made, where that can be."""

    @abc.abstractmethod
    def clear(self) -> None:
        """Forget what is kept; nothing is being made any more."""


class ThreadWorkers(Workers):
    """Workers are the threads that call: for code that lets go of Python's lock (decoding, numpy)."""

    num_queues = 1

    def __init__(self, work: Work, meter: Meter, pace: Pace) -> None:
        self._work, self._meter, self._pace = work, meter, pace
        cache = SpillCache(lambda num_bytes, _: meter.add_stored(num_bytes))
        self._store = Store(cache, echoes_items=work.echo.echoes_items)

    def allocate(self, layout: Layout, num_rows: int) -> Arrays:
        return new_arrays(layout, num_rows)

    def lacks(self, ordinal: int) -> bool:
        return self._store.lacks(ordinal)

    def cut(self, rows: Rows, records: dict[int, Entry]) -> list[tuple[int, Rows, Sequence[Entry | None] | None]]:
        entries = self._store.take(rows, records)
        return [(0, rows[part], entries[part] if entries is not None else None) for part in self._pace.cut(len(rows))]

    def pieces(self, job: Job, rows: Rows, material: Sequence[Entry | None] | None) -> list[Piece]:
        entries: Sequence[Entry] | None = material  # type: ignore[assignment]
        pieces: list[Piece] = []
        first: dict[int, int] = {}
        for number, entry in enumerate(entries or ()):
            if entry.maker is None and not entry.is_done and entry.is_shared:
                first.setdefault(id(entry), number)
        if entries is not None and first:
            which = list(first.values())
            shared = [entries[number] for number in which]
            pieces.append(ResultsPiece(rows[np.array(which)], shared, self._work, self._meter))
        return [*pieces, RowsPiece(job, rows, entries, self._work, self)]

    def make(self, worker: int, job: Job, rows: Rows, material: Sequence[Entry | None] | None) -> None:
        times = Times()
        job.add_broken(fill(rows, material, self._work, job.arrays, times))  # type: ignore[arg-type]
        self._meter.add(times)
        self._pace.done(len(rows), times.total)

    def helper(self, worker: int) -> str:
        return ""

    def stop(self, *, timeout: float) -> None:
        """A thread cannot be ended from outside."""

    def clear(self) -> None:
        self._store.clear()
