"""Planned batches, cut into jobs and pieces of work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from dataecho.pipeline.accounting.meter import Meter
from dataecho.pipeline.batch import MAX_HANDED_ON, Arrays, BatchPool, Layout
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.engine.piece import Piece
from dataecho.pipeline.engine.pieces import ReadPiece, RepeatPiece, WholePiece
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.engine.workers import Workers
from dataecho.pipeline.storage.spill import SpillCache
from dataecho.pipeline.storage.store import Entry
from dataecho.plan.batch import PlannedBatch
from dataecho.plan.order import Ids

_READS_AT_ONCE = 16  # of items that enter the plan

#: The queue of a piece: a worker's number, or that of the readers.
READS = -1
Queued = tuple[int, Piece]


class Cutter:
    """Remembers what later pieces build on: records that are read, batches that are repeated.

    ``makes_whole``: nothing is kept of a batch and nothing is read before, so one piece can make a whole batch, or
    several; ``hands_on``: batches are what the last stage made; ``reads_when_planned``: records are read by readers as
    soon as their batch is planned; ``shares_repeats``: all repeats of a batch share its arrays.
    """

    def __init__(
        self,
        work: Work,
        workers: Workers,
        records: SpillCache,
        meter: Meter,
        pace: Pace,
        *,
        makes_whole: bool,
        hands_on: bool,
        reads_when_planned: bool,
        shares_repeats: bool,
    ) -> None:
        self._work, self._workers, self._meter, self._pace = work, workers, meter, pace
        self._makes_whole, self._hands_on = makes_whole, hands_on
        self._reads_when_planned, self._shares_repeats = reads_when_planned, shares_repeats
        self._cache = records
        self._records: dict[int, Entry] = {}
        self._originals: dict[int, tuple[Job, list[Piece]]] = {}
        self._pool: BatchPool | None = None
        self._batch_size = 0

    def num_whole(self) -> int:
        """Batches to make in one piece; 0 where a batch is cut, or its size is not known yet."""
        if self._pool is None or not self._makes_whole:
            return 0
        is_one = self._hands_on and self._pool.batch_bytes <= MAX_HANDED_ON
        return self._pace.num_batches(self._batch_size) or int(is_one)

    def cut(self, batches: Sequence[PlannedBatch]) -> Iterator[tuple[list[Job], list[Queued]]]:
        """Jobs in the order of ``batches``, a few at a time, each with its pieces."""
        if self._pool is None and batches:
            self._batch_size = len(batches[0])
            self._pool = BatchPool(self._allocate, self._meter.add_batches)
        for is_repeated, group in itertools.groupby(batches, key=lambda planned: planned.num_batch_repeats > 1):
            some = list(group)
            if is_repeated:
                for planned in some:
                    job, pieces = self._repeat(planned)
                    yield [job], pieces
            elif self.num_whole():
                yield self._whole(some)
            else:
                for planned in some:
                    job, pieces = self._in_rows(planned)
                    yield [job], pieces

    def read_entered(self, items: Ids) -> list[Queued]:
        """Reads of items that have entered the plan."""
        return self._read(items, _READS_AT_ONCE, is_entry=True)

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
        self._originals.clear()

    def _allocate(self, layout: Layout, num_batches: int) -> Arrays:
        return self._workers.allocate(layout, num_batches * self._batch_size)

    def _read(self, items: Ids, size: int, *, is_entry: bool) -> list[Queued]:
        pieces: list[Queued] = []
        for start in range(0, len(items), size):
            part = items[start : start + size]
            records = [Entry(self._cache, 1) for _ in part]
            self._records.update(zip(part[:, 0].tolist(), records, strict=True))
            pieces.append((READS, ReadPiece(part, records, self._work, self._meter, is_entry=is_entry)))
        return pieces

    def _whole(self, batches: Sequence[PlannedBatch]) -> tuple[list[Job], list[Queued]]:
        assert self._pool is not None
        jobs = [Job(planned, self._pool, num_pieces=1) for planned in batches]
        return jobs, [(0, WholePiece(jobs, self._work, self._meter, self._pace, hands_on=self._hands_on))]

    def _in_rows(self, planned: PlannedBatch) -> tuple[Job, list[Queued]]:
        assert self._pool is not None
        rows = Rows.of(planned)
        queued = self._read(self._not_read(rows), 1, is_entry=False) if self._reads_when_planned else []
        parts = self._workers.cut(rows, self._records)
        job = Job(planned, self._pool, num_pieces=len(parts))
        for queue, part, material in parts:
            queued.extend((queue, piece) for piece in self._workers.pieces(job, part, material))
        return job, queued

    def _not_read(self, rows: Rows) -> Ids:
        """The items among ``rows`` whose records are neither here nor on their way, nor needed."""
        wanted: dict[int, int] = {}
        for number, ordinal in enumerate(rows.ordinal.tolist()):
            if ordinal not in self._records and ordinal not in wanted and self._workers.lacks(ordinal):
                wanted[ordinal] = number
        which = np.array(list(wanted.values()), dtype=np.int64)
        return np.stack([rows.ordinal[which], rows.epoch[which], rows.shard[which], rows.k[which]], axis=1)

    def _repeat(self, planned: PlannedBatch) -> tuple[Job, list[Queued]]:
        assert self._pool is not None
        queued: list[Queued] = []
        if planned.batch_ordinal not in self._originals:
            if self.num_whole():
                (original,), queued = self._whole([planned])
            else:
                original, queued = self._in_rows(planned)
            original.num_users = planned.num_batch_repeats - planned.batch_repeat
            self._originals[planned.batch_ordinal] = original, [piece for queue, piece in queued if queue != READS]
        original, made_by = self._originals[planned.batch_ordinal]
        if planned.batch_repeat == planned.num_batch_repeats - 1:
            del self._originals[planned.batch_ordinal]
        job = Job(planned, self._pool, num_pieces=1)
        piece = RepeatPiece(job, original, made_by, self._meter, share=self._shares_repeats)
        return job, [*queued, (planned.batch_ordinal % self._workers.num_queues, piece)]
