"""The pieces of work, from planning to repeating a batch. Each says what it does, and to whom a failure is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dataecho.pipeline.accounting.meter import Meter, Times
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.engine.piece import Piece
from dataecho.pipeline.engine.planner import Planner
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import BATCH, as_examples
from dataecho.pipeline.storage.store import Entry
from dataecho.plan.events import Event
from dataecho.plan.order import Ids

if TYPE_CHECKING:
    from dataecho.pipeline.engine.board import Board
    from dataecho.pipeline.engine.workers import Workers


_LOG = logging.getLogger(__name__)


class PlanPiece(Piece):
    """Ask the plan for its next batches. A failure is told where these would have been."""

    may_run_again = False  # a plan that was broken off is somewhere between two batches

    def __init__(self, planner: Planner, num_batches: int) -> None:
        super().__init__()
        self._planner, self._num_batches = planner, num_batches
        self._event: Event | None = None

    def run(self, worker: int) -> None:
        self._event = self._planner.next_event(self._num_batches)

    def done(self, board: Board) -> None:
        assert self._event is not None
        board.planned(self._event)

    def failed(self, board: Board, error: BaseException) -> None:
        board.end(error)

    def __str__(self) -> str:
        return "planning the next batch"


class LengthPiece(Piece):
    """Ask the source for the length of a shard that the plan has reached. A failure is told where the next batch would
    have been."""

    def __init__(self, source: Source, shard: int) -> None:
        super().__init__()
        self._source, self._shard, self._length = source, shard, -1

    def run(self, worker: int) -> None:
        self._length = int(self._source.num_examples(self._shard))

    def reads_nothing(self) -> bool:
        return False

    def done(self, board: Board) -> None:
        board.length_known(self._shard, self._length)

    def failed(self, board: Board, error: BaseException) -> None:
        board.end(error)

    def __str__(self) -> str:
        return f"asking for the length of shard {self._shard}"


class FetchPiece(Piece):
    """Bring a shard here. A failure is told when the plan reaches the shard. ``length``: None where it is not known;
    ``proceed``: called between the steps of a fetch, with whether these are progress: to wait for a place is none."""

    def __init__(
        self,
        source: Source,
        shard: int,
        meter: Meter,
        *,
        length: int | None,
        proceed: Callable[[bool], None],
        has_place: Callable[[int], None],
    ) -> None:
        super().__init__()
        self._source, self._shard, self._meter = source, shard, meter
        self._given_length, self._length = length, -1
        self._proceed, self._tell_place = proceed, has_place
        self._has_place = not source.limits_places

    def run(self, worker: int) -> None:
        places = {"on_place": self._on_place} if self._source.limits_places else {}
        with self._meter.transfer():
            num_bytes = self._source.fetch(self._shard, proceed=lambda: self._proceed(self._has_place), **places)
        self._meter.add_fetched(num_bytes)
        try:
            known = self._given_length
            self._length = int(self._source.num_examples(self._shard)) if known is None else known
        except BaseException:
            self._source.drop(self._shard)
            raise

    def _on_place(self) -> None:
        self._has_place = True
        self._tell_place(self._shard)

    def done(self, board: Board) -> None:
        board.fetched(self._shard, self._length)

    def failed(self, board: Board, error: BaseException) -> None:
        board.fetch_failed(self._shard, error)

    def dismissed(self, board: Board, error: BaseException | None) -> None:
        if error is None:
            drop_at_end(self._source, self._shard)

    def __str__(self) -> str:
        return f"fetching shard {self._shard}" + ("" if self._has_place else ", for which there is no place yet")


def drop_at_end(source: Source, shard: int) -> None:
    """Let the copy of a shard go that nobody waits for any more. A failure is logged."""
    try:
        source.drop(shard)
    except Exception as error:
        _LOG.warning("The copy of shard %d could not be dropped: %s", shard, str(error))


class DropPiece(Piece):
    """Let the copy of a shard go, all of which has been read. A failure ends the run; closing tries once more."""

    def __init__(self, source: Source, shard: int) -> None:
        super().__init__()
        self._source, self._shard = source, shard

    def run(self, worker: int) -> None:
        self._source.drop(self._shard)

    def done(self, board: Board) -> None:
        board.dropped(self._shard)

    def failed(self, board: Board, error: BaseException) -> None:
        board.end(error)

    def dismissed(self, board: Board, error: BaseException | None) -> None:
        if error is None:
            board.dropped(self._shard)

    def __str__(self) -> str:
        return f"dropping the copy of shard {self._shard}"


class ReadPiece(Piece):
    """Read some items before they are needed. A failure is told by the batch that first needs one of the records."""

    def __init__(self, items: Ids, records: Sequence[Entry], work: Work, meter: Meter, *, is_entry: bool) -> None:
        super().__init__()
        self._items, self._records, self._work, self._meter = items, records, work, meter
        self._is_entry = is_entry
        for record in records:
            record.maker = self

    def run(self, worker: int) -> None:
        epochs, shards, ks = self._items.T[1:]
        times = Times()
        with self._meter.transfer():
            results = as_examples(self._work.read(epochs, shards, ks, times))
        self._meter.add(times, by_worker=False)
        for record, result in zip(self._records, results, strict=True):
            if not record.is_done:
                record.hold(result)

    def done(self, board: Board) -> None:
        self._end(board)

    def failed(self, board: Board, error: BaseException) -> None:
        for record in self._records:
            record.fail(error)
        self._end(board)

    def _end(self, board: Board) -> None:
        for record in self._records:
            record.maker = None
        if self._is_entry:
            board.items_read(self._items)

    def __str__(self) -> str:
        return f"reading {self._work.items_name(self._items[:, 1], self._items[:, 2], self._items[:, 3])}"


class ResultsPiece(Piece):
    """Results of the stage before the echo point that several pieces use: made apart from these, so that none of them
    waits for another. A failure is told by the batches that need one. ``entries``: one a row."""

    def __init__(self, rows: Rows, entries: Sequence[Entry], work: Work, meter: Meter) -> None:
        super().__init__()
        self._rows, self._entries, self._work, self._meter = rows, entries, work, meter
        self._records = [entry.record for entry in entries if entry.record is not None]
        for entry in entries:
            entry.maker = self
        for record in self._records:
            if record.maker is not None:
                self.wait_for(record.maker)

    def run(self, worker: int) -> None:
        times = Times()
        self._work.make_results(self._rows, self._entries, times)
        self._meter.add(times)

    def reads_nothing(self) -> bool:
        return self._work.source.is_in_memory or len(self._records) == len(self._entries)

    def done(self, board: Board) -> None:
        self._end()

    def failed(self, board: Board, error: BaseException) -> None:
        for entry in self._entries:
            entry.fail(error)
        self._end()

    def _end(self) -> None:
        for entry in self._entries:
            entry.maker = None
        for record in self._records:
            record.used()

    def __str__(self) -> str:
        rows = self._rows
        return f"results of {self._work.items_name(rows.epoch, rows.shard, rows.k)}"


class RowsPiece(Piece):
    """A few rows of a batch, from what is kept of them, or from reading, to writing. A failure is told by the batch.
    ``entries``: one a row, where results are kept or records were read before; those that nobody else uses are made
    here."""

    def __init__(self, job: Job, rows: Rows, entries: Sequence[Entry] | None, work: Work, workers: Workers) -> None:
        super().__init__()
        self._job, self._rows, self._entries, self._work, self._workers = job, rows, entries, work, workers
        self._records: list[Entry] = []
        for entry in entries or ():
            if entry.is_done:
                continue
            if entry.maker is not None:
                self.wait_for(entry.maker)
            elif entry.record is not None:
                self._records.append(entry.record)
                if entry.record.maker is not None:
                    self.wait_for(entry.record.maker)

    def run(self, worker: int) -> None:
        self._workers.make(worker, self._job, self._rows, self._entries)

    def reads_nothing(self) -> bool:
        if self._work.source.is_in_memory or self._entries is None:
            return self._work.source.is_in_memory
        return all(entry.is_done or entry.record is not None for entry in self._entries)

    def done(self, board: Board) -> None:
        self._end()
        board.piece_ended(self._job, None)

    def failed(self, board: Board, error: BaseException) -> None:
        self._end()
        board.piece_ended(self._job, error)

    def _end(self) -> None:
        for entry in (*self._records, *(self._entries or ())):
            entry.used()

    def __str__(self) -> str:
        rows = self._rows
        return (
            f"rows of batch {self._job.planned.batch_ordinal}: {self._work.items_name(rows.epoch, rows.shard, rows.k)}"
        )


class RemoteRowsPiece(Piece):
    """The same in a worker process, which keeps results itself: its pieces are done in the order of the plan.
    ``records``: one a row, of what was read before, or None."""

    def __init__(self, job: Job, rows: Rows, records: Sequence[Entry | None], work: Work, workers: Workers) -> None:
        super().__init__()
        self._job, self._rows, self._records, self._work, self._workers = job, rows, records, work, workers
        for record in records:
            if record is not None and record.maker is not None:
                self.wait_for(record.maker)

    def run(self, worker: int) -> None:
        self._workers.make(worker, self._job, self._rows, self._records)

    def done(self, board: Board) -> None:
        self._end()
        board.piece_ended(self._job, None)

    def failed(self, board: Board, error: BaseException) -> None:
        self._end()
        board.piece_ended(self._job, error)

    def _end(self) -> None:
        for record in self._records:
            if record is not None:
                record.used()

    def __str__(self) -> str:
        rows = self._rows
        return (
            f"rows of batch {self._job.planned.batch_ordinal}: {self._work.items_name(rows.epoch, rows.shard, rows.k)}"
        )


class WholePiece(Piece):
    """One or more whole batches of which nothing is kept: for work so cheap that every change of threads shows, or so
    that batches are what the last stage makes (``hands_on``). A failure of several is taken up again batch by batch, so
    that it is told by the one that is to blame."""

    def __init__(self, jobs: Sequence[Job], work: Work, meter: Meter, pace: Pace, *, hands_on: bool) -> None:
        super().__init__()
        self._jobs = jobs
        self._work, self._meter, self._pace, self._hands_on = work, meter, pace, hands_on

    def run(self, worker: int) -> None:
        rows, times = Rows.of(*(job.planned for job in self._jobs)), Times()
        made = self._work.make(rows, None, times)
        Job.write_all(self._jobs, made, rows, self._work, times, hands_on=self._hands_on)
        self._meter.add(times)
        self._pace.done(len(rows), times.total)

    def reads_nothing(self) -> bool:
        return self._work.source.is_in_memory

    def done(self, board: Board) -> None:
        for job in self._jobs:
            board.piece_ended(job, None)

    def failed(self, board: Board, error: BaseException) -> None:
        if len(self._jobs) > 1 and isinstance(error, Exception):
            board.again(
                [WholePiece((job,), self._work, self._meter, self._pace, hands_on=self._hands_on) for job in self._jobs]
            )
            return
        for job in self._jobs:
            board.piece_ended(job, error)

    def __str__(self) -> str:
        first, last = (self._jobs[number].planned for number in (0, -1))
        batches = f"batch {first.batch_ordinal}" + (f" to {last.batch_ordinal}" if last is not first else "")
        return f"{batches}: {self._work.items_name(first.epoch, first.shard, first.k)}"


class RepeatPiece(Piece):
    """One repeat of a whole batch, after the ``made_by`` pieces of that batch. A failure is told by the repeat."""

    def __init__(self, job: Job, original: Job, made_by: Sequence[Piece], meter: Meter, *, share: bool) -> None:
        super().__init__()
        self._job, self._original, self._meter, self._share = job, original, meter, share
        for piece in made_by:
            self.wait_for(piece)

    def run(self, worker: int) -> None:
        times = Times()
        with times.of(BATCH, len(self._job.planned)):
            self._job.copy_from(self._original, share=self._share)
        self._meter.add(times)

    def done(self, board: Board) -> None:
        self._original.repeat_taken(share=self._share)
        board.piece_ended(self._job, None)

    def failed(self, board: Board, error: BaseException) -> None:
        board.piece_ended(self._job, error)

    def __str__(self) -> str:
        planned = self._job.planned
        return f"repeat {planned.batch_repeat} of batch {planned.batch_ordinal}"
