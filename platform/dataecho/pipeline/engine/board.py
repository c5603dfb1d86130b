"""The board: what is to be done, what is being done, what is finished. No thread, no lock, no clock.

Whoever works takes a piece (:meth:`Board.take`), runs it, and says how it ended (:meth:`Board.ended`). A piece that
was taken needs nothing that is not there, so it ends by itself; the first batch that is not finished always has a piece
that is running or can be taken, or the plan has. So the board cannot come to a standstill (docs/explanation/engine.md).
"""

from __future__ import annotations

import enum
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dataecho.pipeline.accounting.meter import Meter
from dataecho.pipeline.engine.cutter import READS, Cutter, Queued
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.piece import Piece
from dataecho.pipeline.engine.pieces import DropPiece, FetchPiece, LengthPiece, PlanPiece
from dataecho.pipeline.engine.planner import Planner
from dataecho.pipeline.engine.visits import ShardVisits
from dataecho.pipeline.source import Source
from dataecho.plan.events import Ended, Entered, Event, NeedsLength, Planned
from dataecho.plan.order import Ids


class Closed(Exception):
    """Nobody wants the data any more."""


class Phase(enum.Enum):
    """The life of an engine."""

    NEW = "new"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CLOSED = "closed"


#: The only changes of phase there are.
TRANSITIONS = {
    Phase.NEW: {Phase.RUNNING, Phase.PAUSING, Phase.CLOSED},
    Phase.RUNNING: {Phase.PAUSING, Phase.CLOSED},
    Phase.PAUSING: {Phase.PAUSED, Phase.RUNNING, Phase.CLOSED},
    Phase.PAUSED: {Phase.RUNNING, Phase.CLOSED},
    Phase.CLOSED: set(),
}


class Role(enum.Enum):
    """Who works: on rows and plans, on reads, on shards that are brought here."""

    WORKER = "worker"
    READER = "reader"
    FETCHER = "fetch"


@dataclass(frozen=True)
class Failure:
    """An error where the next batch would have been."""

    error: BaseException


class Board:
    """``look_ahead`` batches at most are in work or waiting. ``lengths`` is what the plan looks shards up in;
    ``visits`` only for a source whose shards are fetched. ``plans_first``: whether a worker plans before it makes rows,
    so that readers do not run out of work. ``proceed`` is what a fetch calls between two of its steps.
    """

    def __init__(
        self,
        source: Source,
        planner: Planner,
        cutter: Cutter,
        meter: Meter,
        *,
        lengths: dict[int, int],
        visits: ShardVisits | None,
        look_ahead: int,
        num_queues: int,
        has_readers: bool,
        plans_first: bool,
    ) -> None:
        self._source, self._planner, self._cutter, self._meter = source, planner, cutter, meter
        self._lengths, self._visits = lengths, visits
        self._look_ahead, self._has_readers, self._plans_first = look_ahead, has_readers, plans_first
        self._queues: list[deque[Piece]] = [deque() for _ in range(num_queues)]
        self._reads: deque[Piece] = deque()
        self._drops: deque[Piece] = deque()
        self._fetches: deque[Piece] = deque()  # that were given back
        self._jobs: deque[Job | Failure] = deque()
        self._is_planning = False  # a piece that plans or asks is taken or queued, or a shard is waited for
        self._needed: NeedsLength | Entered | None = None  # what the plan waits for
        self._has_ended = self._has_failed = False
        self.phase = Phase.NEW
        #: Pieces that were taken and have not ended, and by whom, in the order in which they were taken.
        self.active: dict[Piece, tuple[Role, int]] = {}
        #: Fetches that stand still between two of their steps.
        self.num_standing = 0
        #: Who may find something to do since somebody looked.
        self.news: set[Role] = set()
        #: What a fetch calls between two of its steps, with whether these are progress, and when it has a place;
        #: set by whoever runs pieces.
        self.proceed: Callable[[bool], None] = _go_on
        self.has_place: Callable[[int], None] = _placed

    # ---- the life of the engine

    def change(self, phase: Phase) -> None:
        """To another phase. Raises ``RuntimeError`` for a change that :data:`TRANSITIONS` does not have."""
        if phase not in TRANSITIONS[self.phase]:
            raise RuntimeError(f"the input engine cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase
        self.news |= set(Role)
        if phase is Phase.PAUSING:
            self._look_whether_all_stand()
        elif phase is Phase.CLOSED:
            for queue in (*self._queues, self._reads, self._drops, self._fetches):
                queue.clear()
            self._jobs.clear()
            self._cutter.clear()
            self.proceed, self.has_place = _go_on, _placed  # they lead back here

    def stand(self, by: int) -> None:
        """A fetch begins (1) or ends (-1) to stand still."""
        self.num_standing += by
        self._look_whether_all_stand()

    def _look_whether_all_stand(self) -> None:
        if self.phase is Phase.PAUSING and len(self.active) == self.num_standing:
            self.change(Phase.PAUSED)

    # ---- what to do next

    def take(self, role: Role, number: int = 0) -> Piece | None:
        """The next piece for this worker, reader or fetcher, if there is one. It must be told to :meth:`ended`."""
        if self.phase is not Phase.RUNNING:
            return None
        if role is Role.WORKER:
            piece = self._next_for_worker(number)
        elif role is Role.READER:
            # Drops first, and never by a fetcher: all of these may be waiting for the place that a drop makes.
            piece = _first_ready(self._drops) or _first_ready(self._reads)
        else:
            piece = self._next_for_fetcher()
        if piece is not None:
            self.active[piece] = (role, number)
        return piece

    def take_short(self) -> Piece | None:
        """The next piece of a worker for the caller, who waits: the first that can start, if it reads nothing, or the
        plan's. It must be told to :meth:`ended`, or given back."""
        if self.phase is not Phase.RUNNING:
            return None
        first = next((piece for piece in self._queues[0] if not piece.num_waits), None)
        if first is None:
            piece = self._plan_piece() if self._may_plan() else None
        elif first.reads_nothing():
            self._queues[0].remove(first)
            piece = first
        else:
            piece = None
        if piece is not None:
            self.active[piece] = (Role.WORKER, 0)
        return piece

    def may_have_work(self) -> bool:
        """Whether a worker may find something to do: where this is false, :meth:`take` gives none of them a piece."""
        return any(self._queues) or self._may_plan()

    def _next_for_worker(self, number: int) -> Piece | None:
        if self._one_is_enough():
            return None
        if self._plans_first and self._may_plan():
            return self._plan_piece()
        in_order = len(self._queues) > 1
        piece = _first_ready(self._queues[number % len(self._queues)], in_order=in_order)
        if piece is None and self._may_plan():
            piece = self._plan_piece()
        return piece

    def _next_for_fetcher(self) -> Piece | None:
        piece = _first_ready(self._fetches)
        if piece is not None or self._visits is None:
            return piece
        num_open = self._visits.num_open
        shard = self._visits.next_fetch()
        if self._visits.num_open > num_open:  # perhaps of a copy that is here already, which the plan waits for
            self._go_on()
        if shard is not None:
            if not self._source.limits_places:
                self._visits.has_place(shard)
            self.news.add(Role.FETCHER)
            piece = FetchPiece(
                self._source,
                shard,
                self._meter,
                length=self._lengths.get(shard),
                proceed=self.proceed,
                has_place=self.has_place,
            )
        return piece

    def _plan_piece(self) -> Piece:
        self._is_planning = True
        return PlanPiece(self._planner, max(1, self._cutter.num_whole()))

    def _may_plan(self) -> bool:
        room = self._look_ahead - len(self._jobs)
        return not self._is_planning and not self._has_ended and room >= max(1, self._cutter.num_whole())

    def _one_is_enough(self) -> bool:
        """Whether somebody works and half of the look-ahead is finished: the loop has more use for the other cores.
        Worker processes have queues of their own, and none can stand in for another."""
        return (
            len(self._queues) == 1 and self._is_ahead() and any(role is Role.WORKER for role, _ in self.active.values())
        )

    def _is_ahead(self) -> bool:
        enough = self._look_ahead // 2
        return 0 < enough <= len(self._jobs) and all(map(_is_finished, itertools.islice(self._jobs, enough)))

    def give_back(self, piece: Piece) -> None:
        """``piece`` was broken off by its caller, who may come again: it is the first to be taken then. Raises
        ``RuntimeError`` where it cannot be run once more."""
        if not piece.may_run_again:
            raise RuntimeError(f"{piece} was interrupted")
        role, number = self.active.pop(piece)
        if role is Role.WORKER:
            self._queues[number % len(self._queues)].appendleft(piece)
        else:
            (self._reads if role is Role.READER else self._fetches).appendleft(piece)

    # ---- how it ended

    def ended(self, piece: Piece, error: BaseException | None) -> None:
        """``piece`` has ended, exactly once: with its result, or with ``error``."""
        assert not piece.has_ended, f"a piece of work has ended twice: {piece}"
        del self.active[piece]
        piece.has_ended = True
        try:
            if self.phase is Phase.CLOSED:
                piece.dismissed(self, error)
            elif error is None:
                piece.done(self)
            else:
                piece.failed(self, error)
        except BaseException as caught:  # of the books themselves: told, like any other
            self.end(caught)
        for follower in piece.followers:
            follower.num_waits -= 1
            if not follower.num_waits:
                self.news.add(Role.WORKER)  # a reader's pieces wait for none
        piece.followers = []
        self._look_whether_all_stand()

    # ---- what pieces say

    def planned(self, event: Event) -> None:
        """The plan's answer."""
        if isinstance(event, Planned):
            self._is_planning = False
            for jobs, queued in self._cutter.cut(event.batches):
                self._jobs.extend(jobs)
                self._queue(queued)
        elif isinstance(event, Ended):
            self._has_ended = True
        else:
            self._needed = event
            self._go_on()

    def length_known(self, shard: int, length: int) -> None:
        """The plan can go on."""
        self._lengths[shard] = length
        self._needed = None
        self._plan_again()

    def fetched(self, shard: int, length: int) -> None:
        """A shard has come."""
        assert self._visits is not None
        self._lengths[shard] = length
        self._visits.fetched(shard)
        self.news.add(Role.FETCHER)
        self._go_on()

    def fetch_failed(self, shard: int, error: BaseException) -> None:
        """A shard cannot be had."""
        assert self._visits is not None
        self._visits.fetch_failed(shard, error)
        self.news.add(Role.FETCHER)
        self._go_on()

    def note_place(self, shard: int) -> None:
        """The bytes of a shard have a place."""
        if self._visits is not None:
            self._visits.has_place(shard)
            self.news.add(Role.FETCHER)

    def items_read(self, items: Ids) -> None:
        """Items that had entered the plan have been read, or never will be."""
        if self._visits is None:
            return
        for shard in self._visits.read(map(tuple, items[:, 1:3].tolist())):
            self._drops.append(DropPiece(self._source, shard))
        self.news |= {Role.READER, Role.FETCHER}

    def dropped(self, shard: int) -> None:
        """The copy of a shard has gone."""
        assert self._visits is not None
        self._visits.dropped(shard)
        self.news.add(Role.FETCHER)

    def piece_ended(self, job: Job, error: BaseException | None) -> None:
        """One piece of a batch has ended."""
        job.piece_ended(error)

    def again(self, pieces: Sequence[Piece]) -> None:
        """Do this instead of a piece that failed, before everything else."""
        self._queues[0].extendleft(reversed(pieces))
        self.news.add(Role.WORKER)

    def end(self, error: BaseException) -> None:
        """``error`` is told where the next planned batch would have been, and nothing is planned after it. Of several
        the first is told."""
        if not self._has_failed:
            self._has_ended = self._has_failed = True
            self._jobs.append(Failure(error))

    def _go_on(self) -> None:
        """Give the plan what it waits for, as soon as that is there."""
        needed = self._needed
        if needed is None:
            return
        if self._visits is None:
            if isinstance(needed, Entered):
                self._enter(needed)
            else:
                self._ask(needed.shard)
            return
        shard, epoch = (
            (needed.shard, None)
            if isinstance(needed, NeedsLength)
            else (int(needed.items[0, 2]), int(needed.items[0, 1]))
        )
        try:
            is_here = self._visits.reach(shard, epoch)
        except BaseException as error:
            self._needed = None
            self.end(error)
            return
        self.news.add(Role.FETCHER)  # a shard that has been reached makes room for another
        if not is_here:
            return
        if isinstance(needed, Entered):
            self._enter(needed)
        else:
            self._needed = None
            self._plan_again()

    def _ask(self, shard: int) -> None:
        self._needed = None
        piece = LengthPiece(self._source, shard)
        if self._has_readers:
            self._reads.append(piece)
        else:
            self._queues[0].appendleft(piece)
        self.news |= {Role.WORKER, Role.READER}

    def _enter(self, entered: Entered) -> None:
        self._needed = None
        if entered.is_wanted:
            self._queue(self._cutter.read_entered(entered.items))
        else:
            self.items_read(entered.items)
        self._plan_again()

    def _plan_again(self) -> None:
        self._is_planning = False
        self.news.add(Role.WORKER)

    def _queue(self, queued: Iterable[Queued]) -> None:
        for queue, piece in queued:
            if queue == READS:
                self._reads.append(piece)
                self.news.add(Role.READER)
            else:
                self._queues[queue].append(piece)
                self.news.add(Role.WORKER)

    # ---- what is finished

    def has_answer(self) -> bool:
        """Whether :meth:`answer` has one."""
        if self._jobs:
            return _is_finished(self._jobs[0])
        return self._has_ended or self.phase is Phase.CLOSED

    def answer(self) -> Job | Failure | None:
        """The next batch, or an error in its place; None at the end."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        # Not for every batch: to wake workers costs more than it gives.
        if self.may_have_work() and (len(self._jobs) <= self._look_ahead // 2 or not self._is_ahead()):
            self.news.add(Role.WORKER)
        return job

    def waits_for(self) -> str:
        """Name the batch or shard that the next answer waits for."""
        if self._jobs and isinstance(self._jobs[0], Job):
            return f"batch {self._jobs[0].planned.batch_ordinal}"
        if isinstance(self._needed, NeedsLength):
            return f"shard {self._needed.shard}, which the plan has reached"
        if isinstance(self._needed, Entered):
            return f"shard {int(self._needed.items[0, 2])}, which the plan has reached"
        return "the next batch to be planned"

    def shards_here(self) -> list[int]:
        """The fetched shards that are here."""
        return self._visits.here() if self._visits is not None else []


def _first_ready(queue: deque[Piece], *, in_order: bool = False) -> Piece | None:
    """The first piece that can start; of a queue ``in_order`` only the first of all."""
    for number, piece in enumerate(queue):
        if not piece.num_waits:
            del queue[number]
            return piece
        if in_order:
            return None
    return None


def _go_on(is_progress: bool) -> None:
    pass


def _placed(shard: int) -> None:
    pass


def _is_finished(job: Job | Failure) -> bool:
    return isinstance(job, Failure) or job.finished
