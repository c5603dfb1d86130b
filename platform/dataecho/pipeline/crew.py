"""Who works on the rows of a batch: threads here, processes in ``processes.py``."""

from __future__ import annotations

import abc
from typing import Any

from dataecho.pipeline.batch import Arrays, Layout, new_arrays
from dataecho.pipeline.fill import fill
from dataecho.pipeline.job import Job
from dataecho.pipeline.meter import Meter, Times
from dataecho.pipeline.pace import Pace
from dataecho.pipeline.rows import Rows
from dataecho.pipeline.shelf import Shelf
from dataecho.pipeline.store import Entry, Store
from dataecho.pipeline.work import Work

#: What a worker needs besides the rows themselves.
Material = Any


class Crew(abc.ABC):
    """A fixed number of workers. Pieces of work are taken from queues, each served by one worker or by all."""

    @property
    @abc.abstractmethod
    def num_queues(self) -> int:
        """1, or as many as there are workers."""

    @abc.abstractmethod
    def allocate(self, layout: Layout, batch_size: int) -> Arrays:
        """Arrays for a batch, which every worker can write to."""

    @abc.abstractmethod
    def lacks(self, ordinal: int) -> bool:
        """Whether the item has to be read for the next use that is planned. Under the executor's lock, as is:"""

    @abc.abstractmethod
    def cut(self, rows: Rows, records: dict[int, Entry]) -> list[tuple[int, Rows, Material]]:
        """Pieces of a batch, in order: queue, rows, and what goes with them out of ``records`` (read before, by entry
        ordinal; what is used is removed)."""

    @abc.abstractmethod
    def make(self, worker: int, job: Job, rows: Rows, material: Material) -> None:
        """Fill these rows of the job; called in a thread of this worker's own."""

    @abc.abstractmethod
    def close(self) -> None:
        """Nobody works any more; forget everything."""


class ThreadCrew(Crew):
    """Workers are the threads that call: for code that lets go of Python's lock (decoding, numpy)."""

    num_queues = 1

    def __init__(self, work: Work, meter: Meter, pace: Pace) -> None:
        self._work, self._meter, self._pace = work, meter, pace
        shelf = Shelf(lambda num_bytes, _: meter.add_stored(num_bytes))
        self._store = Store(shelf, echoes_items=work.echoes_items)

    def allocate(self, layout: Layout, batch_size: int) -> Arrays:
        return new_arrays(layout, batch_size)

    def lacks(self, ordinal: int) -> bool:
        return self._store.lacks(ordinal)

    def cut(self, rows: Rows, records: dict[int, Entry]) -> list[tuple[int, Rows, Material]]:
        entries = self._store.take(rows, records)
        return [(0, rows[part], entries[part] if entries is not None else None) for part in self._pace.cut(len(rows))]

    def make(self, worker: int, job: Job, rows: Rows, material: Material) -> None:
        times = Times()
        job.add_broken(fill(rows, material, self._work, job.arrays, times))
        self._meter.add(times)
        self._pace.done(len(rows), times.total)

    def close(self) -> None:
        self._store.clear()
