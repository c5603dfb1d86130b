"""Explores interleavings of the board without a thread: which of the things that could happen next does, is drawn.

    python -m tests.pipeline.engine.explorer --schedules 100000 --seed 0
    python -m tests.pipeline.engine.explorer --faults    # put back one at a time: how many schedules find each

A schedule is a sequence of: a worker, reader or fetcher that is awake takes a piece; a piece that was taken ends, well
or with an error; a fetch finds a place; a worker process dies; the caller takes a batch, pauses, resumes, closes.
Whoever found nothing to do sleeps until the board has news for it, as threads do. What must hold, see :func:`explore`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dataecho.pipeline.accounting.meter import Meter, Times
from dataecho.pipeline.batch import Block, new_arrays
from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.engine import board as board_module
from dataecho.pipeline.engine.board import Board, Closed, Failure, Phase, Role
from dataecho.pipeline.engine.cutter import Cutter
from dataecho.pipeline.engine.fill import put
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.messages import Orders, Request
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.engine.piece import Piece
from dataecho.pipeline.engine.pieces import (
    DropPiece,
    FetchPiece,
    LengthPiece,
    PlanPiece,
    ReadPiece,
    RemoteRowsPiece,
    RepeatPiece,
    RowsPiece,
    WholePiece,
)
from dataecho.pipeline.engine.planner import Planner
from dataecho.pipeline.engine.processes import ProcessWorkers
from dataecho.pipeline.engine.visits import ShardVisits
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.engine.worker_process import _Worker
from dataecho.pipeline.engine.workers import ThreadWorkers, Workers
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import DEVICE, Stage
from dataecho.pipeline.storage.spill import Spill, SpillCache
from dataecho.pipeline.storage.store import Entry
from dataecho.plan.events import Ended, Event, NeedsLength, Planned
from dataecho.plan.plan import Plan

NUM_SHARDS, SHARD_LENGTH, NUM_BATCHES, BATCH_SIZE = 5, 4, 9, 4
LOOK_AHEAD, NUM_WORKERS, NUM_READERS, NUM_FETCHERS, NUM_PLACES = 3, 2, 2, 2, 2


class Broken(AssertionError):
    """An invariant does not hold."""


class Shards(Source):
    """Numbers; ``kind`` says when they are read. Places for fetched shards are limited, and counted."""

    num_shards, digest = NUM_SHARDS, "explored"

    def __init__(self, kind: str, *, reads_again: bool = False) -> None:
        self.kind, self._reads_again = kind, reads_again
        self.places: list[int] = []

    @property
    def random_access(self) -> bool:
        return self.kind != "entry"

    @property
    def num_readers(self) -> int:
        return NUM_READERS if self.kind == "readers" else 0

    @property
    def num_fetches(self) -> int:
        return NUM_FETCHERS if self.kind == "fetched" else 0

    @property
    def limits_places(self) -> bool:
        return self.kind == "fetched"

    def num_examples(self, shard: int) -> int:
        return SHARD_LENGTH - shard % 2

    def fetch(self, shard: int, *, proceed: Callable[[], None], on_place: Callable[[], None] = lambda: None) -> int:
        assert shard in self.places
        return 100

    def drop(self, shard: int) -> None:
        self.places.remove(shard)

    def read(self, shards: np.ndarray, ks: np.ndarray) -> list[dict[str, Any]]:
        if self.kind == "fetched" and not self._reads_again:  # what a dead worker had kept is read again, from afar
            missing = set(shards.tolist()) - set(self.places)
            if missing:
                raise Broken(f"shards {missing} are read after they were dropped, or before they were here")
        return [{"x": np.full(3, 10 * s + k)} for s, k in zip(shards.tolist(), ks.tolist(), strict=True)]


STAGES = (Stage("decode", lambda record: {"x": record["x"] * 2}), Stage("last", lambda example: example))
BATCHED = (Stage("decode", lambda chunk: {"x": chunk["x"] * 2}, batched=True),)


@dataclass(frozen=True)
class Case:
    """What is explored: a kind of source, of echo, and who makes rows."""

    source: str
    echo: str
    workers: str

    @property
    def is_possible(self) -> bool:
        """Whole batches are made only of what is at hand, and only of such of which no item is kept."""
        return self.workers != "whole" or (self.source == "at hand" and self.echo in ("none", "batch", "device"))


ECHOES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "none": (None, {}),
    "batch": ("batch", {"factor": 2.0, "echo_batches": True, "batch_shuffle_buffer": 2}),
    "device": (DEVICE, {"factor": 2.0, "echo_batches": True}),
    "items": ("decode", {"factor": 2.5}),
}
CASES = [
    case
    for source in ("at hand", "readers", "entry", "fetched")
    for echo in ECHOES
    for workers in ("threads", "processes", "whole")
    if (case := Case(source, echo, workers)).is_possible
]


class Replayed:
    """The events of a plan that ends after :data:`NUM_BATCHES` batches, recorded once. It is asked only for what it can
    say: a length that it needed must be known when it is asked again."""

    block_length = 1

    def __init__(self, events: list[Event], lengths: dict[int, int]) -> None:
        self._events, self._lengths, self._next = events, lengths, 0

    def next_event(self, num_batches: int = 1) -> Event:
        event = self._events[self._next] if self._next < len(self._events) else Ended()
        if isinstance(event, NeedsLength) and event.shard in self._lengths:
            self._next += 1
            return self.next_event()
        if not isinstance(event, NeedsLength):
            self._next += 1
        return event


@dataclass
class Recorded:
    """What a case must deliver: events and visits of its plan, batches, and items that are used again afterwards."""

    events: list[Event] = field(default_factory=list)
    visits: list[tuple[int, int, int]] = field(default_factory=list)
    expected: list[list[int]] = field(default_factory=list)
    ordinals: list[tuple[int, int]] = field(default_factory=list)
    num_kept: int = 0


def record(case: Case) -> Recorded:
    """Plan it once, with a source whose shards are asked one by one."""
    source, lengths, found = Shards(case.source), {}, Recorded()
    plan = Plan(
        lengths,
        num_shards=NUM_SHARDS,
        seed=1,
        batch_size=BATCH_SIZE,
        shuffle_buffer=8,
        shuffle_items=source.random_access,
        **ECHOES[case.echo][1],
    )
    visits = plan.shards_ahead()
    found.visits = [next(visits) for _ in range(40)]
    live: dict[int, bool] = {}
    while len(found.expected) < NUM_BATCHES:
        event = plan.next_event()
        found.events.append(event)
        if isinstance(event, NeedsLength):
            lengths[event.shard] = source.num_examples(event.shard)
        elif isinstance(event, Planned):
            (planned,) = event.batches
            found.expected.append([2 * (10 * s + k) for s, k in zip(planned.shard, planned.k, strict=True)])
            found.ordinals.append((planned.batch_ordinal, planned.batch_repeat))
            for ordinal, repeat, count in zip(planned.ordinal, planned.repeat, planned.num_repeats, strict=True):
                live[int(ordinal)] = repeat < count - 1
    found.num_kept = sum(live.values()) if case.echo == "items" else 0
    return found


class SimulatedProcesses(ProcessWorkers):
    """Worker processes without processes: a death loses what a worker has kept."""

    def __init__(self, source: Source, stages: tuple[Stage, ...], work: Work, meter: Meter) -> None:
        self._work, self._meter, self.num_queues = work, meter, NUM_WORKERS
        self._pace = Pace(2, most_batches=1)
        self._live, self._layout = set(), None
        self._orders_of = lambda: _Worker(Orders(source, stages, work.echo, 0))
        self._processes = [self._orders_of() for _ in range(NUM_WORKERS)]

    def die(self, worker: int) -> None:
        self._processes[worker] = self._orders_of()

    def allocate(self, layout: Any, num_rows: int) -> Any:
        return new_arrays(layout, num_rows)

    def make(self, worker: int, job: Job, rows: Any, material: Any) -> None:
        records = [record.use() if record is not None else None for record in material]
        answer = self._processes[worker].do(Request(rows, records, None), None)
        if answer.error is not None:
            raise answer.error
        job.add_broken(answer.broken)
        put(answer.made, rows, self._work, job.arrays, Times())

    def clear(self) -> None:
        self._live.clear()


class World:
    """A board, those who work on it, and its caller. ``faults``: how many errors and deaths may happen."""

    def __init__(self, case: Case, recorded: Recorded, draw: random.Random, *, num_faults: int) -> None:
        self.case, self.recorded, self.draw, self.num_faults = case, recorded, draw, num_faults
        self.source = Shards(case.source, reads_again=case.workers == "processes")
        echo_after, _ = ECHOES[case.echo]
        stages = BATCHED if case.workers == "whole" else STAGES
        self.work = Work(self.source, stages, echo=EchoPoint.resolve(echo_after, stages), seed=0)
        self.meter = Meter(self.work.upstream_names)
        pace = Pace(2 * BATCH_SIZE if case.workers == "whole" else 2, most_batches=2)
        self.workers: Workers = (
            SimulatedProcesses(self.source, stages, self.work, self.meter)
            if case.workers == "processes"
            else ThreadWorkers(self.work, self.meter, pace)
        )
        at_entry = case.source in ("entry", "fetched")
        lengths: dict[int, int] = {}
        has_readers = case.source != "at hand"
        self.board = Board(
            self.source,
            Planner(Replayed(recorded.events, lengths), reads_at_entry=at_entry),
            Cutter(
                self.work,
                self.workers,
                SpillCache(self.meter.add_waiting, max_bytes=100, spill=Spill(max_bytes=1 << 20)),
                self.meter,
                pace,
                makes_whole=case.workers == "whole",
                hands_on=False,
                reads_when_planned=case.source == "readers",
                shares_repeats=case.echo == "device",
            ),
            self.meter,
            lengths=lengths,
            visits=ShardVisits(iter(recorded.visits), lengths, num_ahead=3) if case.source == "fetched" else None,
            look_ahead=LOOK_AHEAD,
            num_queues=self.workers.num_queues,
            has_readers=has_readers,
            plans_first=has_readers,
        )
        self.board.change(Phase.RUNNING)
        counts = {
            Role.WORKER: NUM_WORKERS,
            Role.READER: NUM_READERS if has_readers else 0,
            Role.FETCHER: draw.randint(1, NUM_FETCHERS) if case.source == "fetched" else 0,
        }
        self.hands = [(role, number) for role, count in counts.items() for number in range(count)]
        self.asleep: set[tuple[Role, int]] = set()
        self.busy: dict[tuple[Role, int], Piece] = {}
        self.placed: set[Piece] = set()
        self.got: list[Job] = []
        self.error: BaseException | None = None
        self.error_at: int | None = None
        self.expects_error_at: int | None = None
        self.has_ended = self.has_failed = False
        self.injected: list[BaseException] = []

    # ---- what may happen

    def choices(self) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = []
        for hand in self.hands:
            if hand in self.busy:
                piece = self.busy[hand]
                if isinstance(piece, FetchPiece) and piece not in self.placed:
                    if len(self.source.places) < NUM_PLACES or self.board.phase is Phase.CLOSED:
                        found.append(lambda hand=hand: self.place(hand))
                else:
                    found.append(lambda hand=hand: self.end(hand))
            elif hand not in self.asleep:
                found.append(lambda hand=hand: self.take(hand))
        if self.board.phase is not Phase.CLOSED and self.board.has_answer():
            found.append(self.next)
        return found

    def step(self) -> None:
        happens = self.choices()
        phase = self.board.phase
        if phase is Phase.RUNNING and self.draw.random() < 0.02:
            self.board.change(Phase.PAUSING)
        elif phase in (Phase.PAUSING, Phase.PAUSED) and (not happens or self.draw.random() < 0.2):
            self.check_pause()
            self.board.change(Phase.RUNNING)
        elif self.num_faults and self.case.workers == "processes" and self.draw.random() < 0.02:
            self.num_faults -= 1
            self.workers.die(self.draw.randrange(NUM_WORKERS))  # type: ignore[attr-defined]
        elif happens:
            self.draw.choice(happens)()
        elif phase is Phase.RUNNING:
            raise Broken(f"nothing can happen, and the caller waits for {self.board.waits_for()}")
        if self.board.news:
            self.asleep = {hand for hand in self.asleep if hand[0] not in self.board.news}
            self.board.news.clear()
        self.check_pause()

    def check_pause(self) -> None:
        if self.board.phase is Phase.PAUSED and self.busy:
            raise Broken(f"all stand still, it is said, but for {list(map(str, self.busy.values()))}")

    def take(self, hand: tuple[Role, int]) -> None:
        piece = self.board.take(*hand)
        if piece is None:
            self.asleep.add(hand)
        else:
            self.busy[hand] = piece

    def place(self, hand: tuple[Role, int]) -> None:
        piece = self.busy[hand]
        assert isinstance(piece, FetchPiece)
        if self.board.phase is Phase.CLOSED:
            self.board.ended(self.busy.pop(hand), Closed())
            return
        self.source.places.append(piece._shard)
        self.placed.add(piece)
        piece._on_place()

    def end(self, hand: tuple[Role, int]) -> None:
        piece = self.busy.pop(hand)
        error: BaseException | None = None
        if self.num_faults and self.draw.random() < 0.03:
            self.num_faults -= 1
            error = self.draw.choice([OSError("connection reset"), MemoryError(), RuntimeError("a stage")])
            self.note(piece, error)
        else:
            try:
                piece.run(hand[1])
            except Broken:
                raise
            except BaseException as caught:
                if not (self.has_failed or self.board.phase is Phase.CLOSED):
                    raise Broken(f"{piece} fails though nothing was broken: {caught!r}") from caught
                error = caught
        self.board.ended(piece, error)

    def note(self, piece: Piece, error: BaseException) -> None:
        """Which batch has to tell the error, where one must. Of several whole batches none: they are tried again."""
        self.has_failed = True
        self.injected.append(error)
        if isinstance(piece, WholePiece) and len(piece._jobs) > 1:
            self.has_failed = False
            return
        job = None
        if isinstance(piece, RowsPiece | RemoteRowsPiece | RepeatPiece):
            job = piece._job
        elif isinstance(piece, WholePiece):
            (job,) = piece._jobs
        elif isinstance(piece, PlanPiece | LengthPiece):
            self.expects_error_at = len(self.got) + len(self.board._jobs)
        if job is not None and self.case.echo in ("none", "items"):
            self.expects_error_at = self.recorded.ordinals.index((job.planned.batch_ordinal, job.planned.batch_repeat))

    def next(self) -> None:
        answer = self.board.answer()
        if answer is None:
            self.has_ended = True
        elif isinstance(answer, Failure) or answer.error is not None:
            self.error, self.error_at = answer.error, len(self.got)
        else:
            self.check_batch(answer)

    def check_batch(self, job: Job) -> None:
        number = len(self.got)
        batch = job.batch((), self.work)
        here = (job.planned.batch_ordinal, job.planned.batch_repeat)
        if here != self.recorded.ordinals[number]:
            raise Broken(f"batch {here} is delivered where {self.recorded.ordinals[number]} was planned")
        if batch["x"][:, 0].tolist() != self.recorded.expected[number]:
            raise Broken(f"batch {number} has other examples' values")
        self.got.append(job)
        batch.release()

    def check_end(self) -> None:
        """All that was planned has been delivered, or an error told; what was kept is kept only for later uses."""
        if self.error is not None:
            if not self.has_failed:
                raise Broken(f"an error without a cause: {self.error!r}") from self.error
            if not any(self.error is error for error in self.injected):
                raise Broken(f"{self.error!r} is told where {self.injected} was the cause") from self.error
            if len(self.injected) == 1 and self.expects_error_at not in (None, self.error_at):
                raise Broken(f"the error of batch {self.expects_error_at} is told at batch {self.error_at}")
            return
        if len(self.got) != NUM_BATCHES:
            raise Broken(f"{len(self.got)} of {NUM_BATCHES} batches were delivered, and no error was told")
        if self.case.workers != "processes":
            kept = self.meter.read().stored_bytes
            if kept != self.recorded.num_kept * 3 * 8:
                raise Broken(f"{kept} bytes are kept for {self.recorded.num_kept} items that are used again")
        pool = self.board._cutter._pool
        if pool is not None and not self.busy:
            free = sum(block.num_bytes for blocks in pool._free.values() for block in blocks)
            unreleased = sum(job._block.num_bytes for job, _ in self.board._cutter._originals.values() if job._block)
            if pool._num_bytes - sum(pool.gone) > free + unreleased:
                raise Broken(f"{pool._num_bytes - free - unreleased} bytes of batches were never given back")

    def close(self) -> None:
        """Whenever it comes: every piece that runs ends, and nothing begins after it."""
        self.board.change(Phase.CLOSED)
        self.asleep.clear()
        while self.busy:
            hand = self.draw.choice(list(self.busy))
            piece = self.busy[hand]
            if isinstance(piece, FetchPiece) and piece not in self.placed:
                self.place(hand)
            else:
                self.end(hand)
        if any(self.board.take(*hand) is not None for hand in self.hands):
            raise Broken("work begins after the close")


def explore(case: Case, recorded: Recorded, seed: int) -> int:
    """One schedule; the number of its steps. Raises :class:`Broken` unless: every planned batch is delivered once, in
    order, with its own values, or an error is told, at the batch it belongs to; something can happen as long as the
    caller waits; all stand still when that is said; every kept result and every array is given back once."""
    draw = random.Random(seed)
    world = World(case, recorded, draw, num_faults=draw.choice([0, 0, 1, 2]))
    closes_after = draw.randrange(300) if draw.random() < 0.2 else 10**9
    for number in range(100_000):
        if world.has_ended or world.error is not None or number == closes_after:
            break
        world.step()
    else:
        raise Broken("the schedule does not end")
    if number != closes_after:
        while world.busy:  # what is still being made when the last batch has gone
            _end_one(world)
        world.check_end()
    world.close()
    return number


def _end_one(world: World) -> None:
    hand = next(iter(world.busy))
    piece = world.busy[hand]
    if isinstance(piece, FetchPiece) and piece not in world.placed:
        if len(world.source.places) >= NUM_PLACES:
            world.board.ended(world.busy.pop(hand), Closed())
        else:
            world.place(hand)
    else:
        world.num_faults = 0
        world.end(hand)


def explore_many(num_schedules: int, seed: int, *, show: Callable[[int], None] = lambda number: None) -> int:
    """Every case in turn; the number of steps of all."""
    recorded = {case: record(case) for case in CASES}
    steps = 0
    for number in range(num_schedules):
        case = CASES[number % len(CASES)]
        try:
            steps += explore(case, recorded[case], seed * 1_000_003 + number)
        except Broken as error:
            raise Broken(f"{case}, schedule {seed * 1_000_003 + number}: {error}") from error
        if number % 1000 == 0:
            show(number)
    return steps


# ---- faults, put back one at a time


@contextlib.contextmanager
def _replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    old = owner.__dict__[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def _without(owner: Any, name: str) -> Any:
    return _replaced(owner, name, lambda *arguments, **named: None)


def _swallowed_cut(self: Board, event: Event, planned: Any = Board.planned) -> None:
    with contextlib.suppress(RuntimeError):  # a batch that cannot be cut is left out
        planned(self, event)


def _sometimes_uncut(self: Cutter, batches: Any, cut: Any = Cutter.cut) -> Any:
    if any(planned.batch_ordinal == 4 for planned in batches):
        raise RuntimeError("no memory for the books")
    return cut(self, batches)


@contextlib.contextmanager
def _lost_when_cutting_fails() -> Iterator[None]:
    with _replaced(Cutter, "cut", _sometimes_uncut), _replaced(Board, "planned", _swallowed_cut):
        yield


def _standing(self: Board) -> None:
    if self.phase is Phase.PAUSING and not any(role is Role.WORKER for role, _ in self.active.values()):
        self.change(Phase.PAUSED)


def _drops_by_fetchers(self: Board, items: Any) -> None:
    if self._visits is not None:
        for shard in self._visits.read(map(tuple, items[:, 1:3].tolist())):
            self._fetches.append(DropPiece(self._source, shard))
    self.news.add(Role.FETCHER)


def _all_to_blame(self: WholePiece, board: Board, error: BaseException) -> None:
    for job in self._jobs:
        board.piece_ended(job, error)


def _at_the_front(self: Board, error: BaseException) -> None:
    self._has_ended = self._has_failed = True
    self._jobs.appendleft(Failure(error))


def _any_order(queue: Any, *, in_order: bool = False, first: Any = board_module._first_ready) -> Piece | None:
    if in_order and len(queue) > 1:
        queue.rotate(1)
    return first(queue)


def _no_news(self: Board, piece: Piece, error: BaseException | None, ended: Any = Board.ended) -> None:
    before = set(self.news)
    ended(self, piece, error)
    self.news = before


def _silent_answer(self: Board) -> Any:
    return self._jobs.popleft() if self._jobs else None


def _places_in_any_order(self: ShardVisits) -> int | None:
    self._without_place = None
    return _NEXT_FETCH(self)


def _unheld(self: ReadPiece, board: Board, error: BaseException) -> None:
    self._end(board)


_NEXT_FETCH = ShardVisits.next_fetch

#: What was wrong -> how it is put back.
FAULTS: dict[str, Callable[[], Any]] = {
    "a read that fails tells nobody (the spill is full)": lambda: _replaced(ReadPiece, "failed", _unheld),
    "later shards take the place of the one that all wait for": lambda: _replaced(
        ShardVisits, "next_fetch", _places_in_any_order
    ),
    "copies are dropped by those who wait for their place": lambda: _replaced(Board, "items_read", _drops_by_fetchers),
    "echo on the device never gives its batches back": lambda: _without(Block, "share"),
    "a batch that cannot be cut is left out": _lost_when_cutting_fails,
    "a pause does not wait for lengths, reads and fetches": lambda: _replaced(
        Board, "_look_whether_all_stand", _standing
    ),
    "a result is not released when its last use is over": lambda: _without(Entry, "used"),
    "a piece starts before what it needs is there": lambda: _without(Piece, "wait_for"),
    "nobody is woken by what has become possible": lambda: _replaced(Board, "ended", _no_news),
    "nobody is woken when a batch is taken": lambda: _replaced(Board, "answer", _silent_answer),
    "a worker's pieces are not done in order": lambda: _replaced(board_module, "_first_ready", _any_order),
    "one failure is blamed on all batches made together": lambda: _replaced(WholePiece, "failed", _all_to_blame),
    "an error overtakes the batches before it": lambda: _replaced(Board, "end", _at_the_front),
    "a batch echo releases its original too early": lambda: _replaced(
        Job, "repeat_taken", lambda self, *, share: self._block.release()
    ),
}


def schedules_to_find(name: str, *, most: int = 20_000) -> int | None:
    """Schedules until a fault that was put back is found; None if it is not."""
    recorded = {case: record(case) for case in CASES}
    with FAULTS[name]():
        for number in range(most):
            case = CASES[number % len(CASES)]
            try:
                explore(case, recorded[case], number)
            except Exception:  # an invariant, or an assertion of the code itself
                return number + 1
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", action="store_true")
    given = parser.parse_args()
    if given.faults:
        for name in FAULTS:
            found = schedules_to_find(name)
            print(f"{name}: {f'schedule {found}' if found else 'not found'}", flush=True)
        return
    started = time.monotonic()
    steps = explore_many(
        given.schedules, given.seed, show=lambda number: print(f"\r{number:,} schedules", end="", flush=True)
    )
    print(
        f"\r{given.schedules:,} schedules of {len(CASES)} cases, {steps:,} steps, in {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
