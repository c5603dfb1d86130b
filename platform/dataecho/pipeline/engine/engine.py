"""Those who run the pieces on a board: threads, or the caller alone."""

from __future__ import annotations

import abc
import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Mapping

from dataecho.errors import DataError
from dataecho.pipeline.engine.board import Board, Closed, Failure, Phase, Role
from dataecho.pipeline.engine.heap import keep_freed_memory
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.engine.piece import Piece
from dataecho.pipeline.engine.pieces import drop_at_end
from dataecho.pipeline.engine.workers import Workers
from dataecho.pipeline.source import Source
from dataecho.pipeline.storage.spill import Spill

_LOG = logging.getLogger(__name__)
_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + "/"  # what hangs is shown where it called this, say Event.wait

#: Seconds that closing waits for what is being done, all of it together; a thread that goes on after that is named.
GRACE = 5.0


class StallError(DataError):
    """Nothing has come for ``pipeline.stall_timeout`` seconds; names what hangs, and where."""


class Engine(abc.ABC):
    """Runs the pieces on a ``board``, and owns what they need: ``workers``, ``spill``."""

    def __init__(self, board: Board, source: Source, workers: Workers, spill: Spill) -> None:
        self._board, self._source, self._workers, self._spill = board, source, workers, spill

    @abc.abstractmethod
    def ready(self, *, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; whether :meth:`answer` has its answer, be it a batch, an error or the
        end."""

    @abc.abstractmethod
    def answer(self) -> Job | Failure | None:
        """The next batch, or an error in its place; None at the end. Only after :meth:`ready`."""

    @abc.abstractmethod
    def pause(self, *, timeout: float | None) -> bool:
        """Stop working; whether everybody stands still, after at most ``timeout`` seconds (None: when they do)."""

    @abc.abstractmethod
    def resume(self) -> None:
        """Go on after :meth:`pause`."""

    @abc.abstractmethod
    def close(self) -> None:
        """End everything and forget what is ahead. May be called again, and by any thread."""

    @property
    def is_paused(self) -> bool:
        """Whether nobody works until :meth:`resume`."""
        return self._board.phase in (Phase.PAUSING, Phase.PAUSED)

    def _run_for_caller(self, piece: Piece) -> None:
        """Run a piece in the caller's thread. Ctrl-C is the caller's, at once; nothing is lost by it."""
        error: BaseException | None = None
        try:
            self._run_piece(piece)
        except Exception as caught:
            error = caught
        except BaseException:
            if piece.may_run_again:
                self._board.give_back(piece)
            else:
                cure = "Open a new feed, with the state after the last batch that was trained."
                self._board.ended(piece, RuntimeError(f"{piece} was interrupted. {cure}"))
            raise
        self._board.ended(piece, error)

    def _run_piece(self, piece: Piece) -> None:
        piece.run(0)

    def _let_go(self) -> None:
        """Give back what the pieces held; none of them runs any more."""
        for shard in self._board.shards_here():
            drop_at_end(self._source, shard)
        self._workers.clear()
        self._spill.close()


class CallerEngine(Engine):
    """No threads and no locks: the caller runs every piece, while it waits for its batch. For data in memory whose
    batches cost less than a change of threads, and to debug a stage. A call that hangs cannot be bounded here."""

    def __init__(self, board: Board, source: Source, workers: Workers, spill: Spill) -> None:
        super().__init__(board, source, workers, spill)
        self._has_closed = False
        board.has_place = board.note_place

    def ready(self, *, timeout: float) -> bool:
        board = self._board
        if board.phase is Phase.NEW:
            keep_freed_memory()
            board.change(Phase.RUNNING)
        deadline = time.monotonic() + timeout
        while not board.has_answer():
            piece = board.take(Role.WORKER) or board.take(Role.READER) or board.take(Role.FETCHER)
            if piece is None:
                assert self.is_paused, f"nothing leads to {board.waits_for()}"
                return False
            self._run_for_caller(piece)
            if time.monotonic() > deadline and not board.has_answer():
                return False
        return True

    def answer(self) -> Job | Failure | None:
        return self._board.answer()

    def pause(self, *, timeout: float | None) -> bool:
        if self._board.phase in (Phase.NEW, Phase.RUNNING):
            self._board.change(Phase.PAUSING)
        return True

    def resume(self) -> None:
        if self.is_paused:
            self._board.change(Phase.RUNNING)

    def close(self) -> None:
        if not self._has_closed:
            self._has_closed = True
            self._board.change(Phase.CLOSED)
            self._workers.stop(timeout=0.0)
            self._let_go()


class ThreadEngine(Engine):
    """``num_threads`` threads by role. They begin with the first :meth:`ready`, not before: what is read before a clock
    runs would be free. ``stall_timeout``: seconds without progress after which waiting ends with :class:`StallError`.
    ``helper``: the sizes of pieces, where a caller that waits does short ones itself, as one more worker; None: it only
    waits. It takes none that reads from a disk or a network: a blocking read would delay its signals.
    """

    def __init__(
        self,
        board: Board,
        source: Source,
        workers: Workers,
        spill: Spill,
        *,
        num_threads: Mapping[Role, int],
        stall_timeout: float,
        helper: Pace | None,
    ) -> None:
        super().__init__(board, source, workers, spill)
        self._stall_timeout, self._helper = stall_timeout, helper
        self._lock = threading.Lock()
        self._has_work = {role: threading.Condition(self._lock) for role in Role}
        self._has_answer = threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=self._run, args=(role, number), name=f"dataecho-{role.value}-{number}", daemon=True)
            for role, count in num_threads.items()
            for number in range(count)
        ]
        self._at_work: dict[threading.Thread, tuple[Piece, float]] = {}
        self._has_begun = self._has_closed = False
        self._progress = 0.0  # when something last ended, or went on
        self._waiting_since: float | None = None
        board.proceed, board.has_place = self._proceed, self._place_found

    def ready(self, *, timeout: float) -> bool:
        board = self._board
        if not self._has_begun:
            self._begin()
        elif board.has_answer():  # without the lock: only this caller takes an answer away
            self._waiting_since = None
            return True
        deadline = time.monotonic() + timeout
        with self._lock:
            while not board.has_answer():
                helps = self._helper is not None and self._helper.is_short()
                piece = board.take_short() if helps else None
                self._tell()  # after the take: others are woken for what is left
                if piece is not None:
                    self._run_for_caller(piece)
                    piece = None
                    self._progress = time.monotonic()
                    continue
                now = time.monotonic()
                if self.is_paused:
                    self._waiting_since = None
                elif self._waiting_since is None:
                    self._waiting_since = now
                until = deadline
                if self._waiting_since is not None:
                    stalled = max(self._progress, self._waiting_since) + self._stall_timeout
                    if now >= stalled:
                        raise self._stall(now)
                    until = min(deadline, stalled)
                if now >= deadline:
                    return False
                self._has_answer.wait(until - now)
            self._waiting_since = None
            self._tell()
        return True

    def answer(self) -> Job | Failure | None:
        with self._lock:
            answer = self._board.answer()
            self._tell()
        return answer

    def pause(self, *, timeout: float | None) -> bool:
        with self._lock:
            if self._board.phase in (Phase.NEW, Phase.RUNNING):
                self._board.change(Phase.PAUSING)
            return self._has_answer.wait_for(lambda: self._board.phase is not Phase.PAUSING, timeout)

    def resume(self) -> None:
        with self._lock:
            if self.is_paused:
                self._board.change(Phase.RUNNING)
                self._progress = time.monotonic()
            self._tell()

    def close(self) -> None:
        with self._lock:
            if self._board.phase is not Phase.CLOSED:
                self._board.change(Phase.CLOSED)
            self._tell()
            self._has_answer.notify_all()
        if self._has_closed:
            return
        deadline = time.monotonic() + GRACE
        self._workers.stop(timeout=GRACE / 5)
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        if self._has_closed:  # another thread was sooner
            return
        self._has_closed = True
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                _LOG.warning("A thread cannot be ended and is left behind: %s.", self._doing(thread, time.monotonic()))
        self._let_go()

    def is_own(self, thread: threading.Thread) -> bool:
        """Whether ``thread`` works for this engine."""
        return thread in self._threads

    def _run_piece(self, piece: Piece) -> None:
        self._lock.release()
        try:
            piece.run(0)
        finally:
            self._lock.acquire()

    def _begin(self) -> None:
        keep_freed_memory()
        with self._lock:
            self._has_begun = True
            if self._board.phase is Phase.CLOSED:
                return
            if self._board.phase is Phase.NEW:
                self._board.change(Phase.RUNNING)
        for thread in self._threads:
            thread.start()

    def _run(self, role: Role, number: int) -> None:
        board, has_work, thread = self._board, self._has_work[role], threading.current_thread()
        with self._lock:
            while True:
                piece = board.take(role, number)
                self._tell()  # after the take: others are woken for what is left
                if piece is None:
                    if board.phase is Phase.CLOSED:
                        return
                    has_work.wait()
                    continue
                self._at_work[thread] = piece, time.monotonic()
                error: BaseException | None = None
                self._lock.release()
                try:
                    piece.run(number)
                except BaseException as caught:
                    error = caught
                finally:
                    self._lock.acquire()
                del self._at_work[thread]
                board.ended(piece, error)
                piece = error = None  # while it waits, a thread keeps nothing alive
                self._progress = time.monotonic()

    def _tell(self) -> None:
        """Wake whoever may find something to do; under the lock."""
        board = self._board
        concerns_caller = board.has_answer() or board.phase is not Phase.RUNNING
        if board.news:
            if board.phase is Phase.RUNNING and not board.may_have_work():
                board.news.discard(Role.WORKER)
            for role in board.news:
                self._has_work[role].notify_all()
            concerns_caller = concerns_caller or (self._helper is not None and Role.WORKER in board.news)
            board.news.clear()
        if concerns_caller:
            self._has_answer.notify_all()

    def _proceed(self, is_progress: bool) -> None:
        with self._lock:
            if is_progress:
                self._progress = time.monotonic()
            if not self.is_paused and self._board.phase is not Phase.CLOSED:
                return
            self._board.stand(1)
            self._tell()
            try:
                while self.is_paused:
                    self._has_work[Role.FETCHER].wait()
            finally:
                self._board.stand(-1)
            if self._board.phase is Phase.CLOSED:
                raise Closed

    def _place_found(self, shard: int) -> None:
        with self._lock:
            self._board.note_place(shard)
            self._tell()

    def _stall(self, now: float) -> StallError:
        doing = "; ".join(self._doing(thread, now) for thread in self._threads if thread in self._at_work)
        return StallError(
            f"The input has made no progress for {self._stall_timeout:g} s (pipeline.stall_timeout). The loop waits "
            f"for {self._board.waits_for()}. At work: {doing or 'nobody'}. Mend what hangs there, or raise "
            "pipeline.stall_timeout if it may take so long."
        )

    def _doing(self, thread: threading.Thread, now: float) -> str:
        """The piece of work of a thread, since when, and the line of code that it is in."""
        if thread not in self._at_work:
            return thread.name
        piece, since = self._at_work[thread]
        role, number = self._board.active.get(piece, (Role.FETCHER, 0))
        helper = self._workers.helper(number) if role is Role.WORKER else ""
        frame = sys._current_frames().get(thread.ident or 0)
        line = ""
        if frame is not None and not helper:
            stack = traceback.extract_stack(frame)
            theirs = [place for place in stack if not place.filename.startswith(_STANDARD_LIBRARY)]
            place = (theirs or stack)[-1]
            line = f", in {place.name}, {place.filename}:{place.lineno}"
        return f"{thread.name}{helper} for {now - since:.0f} s at {piece}{line}"
