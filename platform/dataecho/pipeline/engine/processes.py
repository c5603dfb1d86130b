"""Worker processes, for code that does not let go of Python's lock: the same work in the same order of the plan.

Worker = entry ordinal mod number of workers, so that all uses of an item are at one worker, which keeps its results.
Rows are written straight into the batch, in memory that parent and children share. A worker that dies is replaced; its
piece of work is done again, and what it had kept is read again.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection

import cloudpickle
import numpy as np

from dataecho.errors import SettingError
from dataecho.pipeline.accounting.meter import Meter, Times
from dataecho.pipeline.batch import Arrays, Layout, layout_of
from dataecho.pipeline.engine.fill import put
from dataecho.pipeline.engine.job import Job
from dataecho.pipeline.engine.messages import Answer, Memory, Orders, Request, Rest, receive, send
from dataecho.pipeline.engine.pace import Pace
from dataecho.pipeline.engine.piece import Piece
from dataecho.pipeline.engine.pieces import RemoteRowsPiece
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.shared_memory import SharedArrays
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.engine.workers import Workers
from dataecho.pipeline.stage import ExampleError, Stage
from dataecho.pipeline.storage.store import Entry
from dataecho.posix import require_posix

_LOG = logging.getLogger(__name__)
_MOST_DEATHS = 2  # of workers over the same piece of work
_FAREWELL = 2.0  # seconds that an idle process has to end by itself

#: The path of modules is set first: the child imports what the parent does, from where the parent does.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from dataecho.pipeline.engine.worker_process import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class WorkerProcess:
    """The parent's side of one process, used by one thread at a time. It needs no ``if __name__ == "__main__"`` of the
    script: the child is a fresh interpreter, and what it is told comes by value. Raises :class:`SettingError` where no
    process can be started."""

    def __init__(self) -> None:
        require_posix("pipeline.num_processes", "above 0", cure="Use pipeline=threads.")
        ends: list[socket.socket] = []
        try:
            for _ in range(2):
                ends += socket.socketpair()
            commands, its_commands, alive, its_alive = ends
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _CHILD,
                    str(its_commands.fileno()),
                    str(its_alive.fileno()),
                    json.dumps(sys.path),
                ],
                pass_fds=(its_commands.fileno(), its_alive.fileno()),
                stdin=subprocess.DEVNULL,
            )
            its_commands.close()
            its_alive.close()
            self._alive = alive
            self._connection = Connection(commands.detach())
        except OSError as error:
            for end in ends:
                end.close()
            raise SettingError(
                "pipeline.num_processes",
                "a worker process",
                allowed=f"as many as the system starts ({error.strerror})",
                cure="Raise the limits (ulimit -n, ulimit -u), use fewer of them, or pipeline=threads.",
            ) from error
        #: Of the arrays that the process has mapped.
        self.known: set[int] = set()

    @property
    def number(self) -> int:
        """The process's number in the system."""
        return self._process.pid

    def order(self, orders: bytes) -> None:
        """Work for another pipeline. Raises :class:`SettingError` where the process cannot."""
        send(self._connection, orders)
        error = receive(self._connection)
        if error is not None:
            raise SettingError(
                "pipeline.num_processes",
                "a worker process",
                allowed="a source and stages that another process can import",
                cure=f"Define them in a module that it finds, or use pipeline=threads ({error}).",
            )

    def rest(self) -> None:
        """Forget the orders and all arrays."""
        send(self._connection, Rest())
        receive(self._connection)
        self.known.clear()

    def show(self, shared: SharedArrays, forgotten: tuple[int, ...]) -> None:
        """Let the process map ``shared``."""
        send(self._connection, Memory(shared.number, shared.layout, shared.num_rows, forgotten))
        reduction.send_handle(self._connection, shared.file.fileno(), self._process.pid)
        self.known.add(shared.number)

    def ask(self, request: Request) -> Answer:
        """Have rows made. Raises ``EOFError`` or ``OSError`` when the process dies."""
        send(self._connection, request)
        answer: Answer = receive(self._connection)
        return answer

    def kill(self) -> None:
        """End the process whatever it does; another thread may be waiting for its answer, and is told."""
        self._process.kill()

    def close(self) -> int:
        """End the process, which is idle or dead; its exit code."""
        self._connection.close()
        try:
            code = self._process.wait(timeout=_FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._alive.close()
        return code


class WorkerPool:
    """Processes that nobody uses at the moment, for the next pipeline: to start one takes a good part of a second. A
    context manager; without it they end with the pool or with this process. Thread-safe."""

    def __init__(self) -> None:
        self._idle: deque[WorkerProcess] = deque()
        self._finalizer = weakref.finalize(self, _end, self._idle)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def take(self) -> WorkerProcess:
        """An idle process, or a new one."""
        try:
            return self._idle.popleft()
        except IndexError:
            return WorkerProcess()

    def give_back(self, process: WorkerProcess) -> None:
        """Nobody uses it any more."""
        try:
            process.rest()
        except (EOFError, OSError):
            process.close()
        else:
            self._idle.append(process)

    def close(self) -> None:
        """End the idle ones."""
        _end(self._idle)


def _end(processes: deque[WorkerProcess]) -> None:
    while processes:
        processes.pop().close()


class ProcessWorkers(Workers):
    """``num_workers`` processes, of a ``pool`` or their own. Source and stages travel to them once, by value: functions
    of a script, a notebook or a lambda may be among them. Raises :class:`SettingError` for what cannot travel."""

    def __init__(
        self,
        work: Work,
        stages: Sequence[Stage],
        meter: Meter,
        *,
        seed: int,
        num_workers: int,
        pace: Pace,
        pool: WorkerPool | None,
    ) -> None:
        self._work, self._meter = work, meter
        self.num_queues = num_workers
        self._pace = pace
        self._live: set[int] = set()
        self._layout: Layout | None = None
        self._pool, self._owns_pool = pool or WorkerPool(), pool is None
        try:
            self._orders = _pickled(Orders(work.source, tuple(stages), work.echo, seed))
        except Exception as error:
            raise SettingError(
                "pipeline.num_processes",
                num_workers,
                allowed="0 for a source and stages that cannot be sent to another process",
                cure=f"Keep open files and locks out of them (__getstate__), or use pipeline=threads ({error}).",
            ) from error
        self._helpers = [_Helper(self._pool, self._orders, meter) for _ in range(num_workers)]

    def allocate(self, layout: Layout, num_rows: int) -> Arrays:
        shared = SharedArrays(layout, num_rows)
        weakref.finalize(shared, _forget, [helper.forgotten for helper in self._helpers], shared.number)
        return shared

    def lacks(self, ordinal: int) -> bool:
        return ordinal not in self._live

    def cut(self, rows: Rows, records: dict[int, Entry]) -> list[tuple[int, Rows, Sequence[Entry | None] | None]]:
        if self._work.echo.echoes_items:
            last = rows.repeat == rows.num_repeats - 1
            self._live.update(rows.ordinal[~last].tolist())
            self._live.difference_update(rows.ordinal[last].tolist())
        owner = rows.ordinal % self.num_queues
        pieces: list[tuple[int, Rows, Sequence[Entry | None] | None]] = []
        for worker in range(self.num_queues):
            mine = np.flatnonzero(owner == worker)
            for which in self._pace.cut(len(mine)):
                part = rows[mine[which]]
                pieces.append((worker, part, [records.pop(ordinal, None) for ordinal in part.ordinal.tolist()]))
        return sorted(pieces, key=lambda piece: int(piece[1].place[0]))

    def pieces(self, job: Job, rows: Rows, material: Sequence[Entry | None] | None) -> list[Piece]:
        return [RemoteRowsPiece(job, rows, material or (), self._work, self)]

    def make(self, worker: int, job: Job, rows: Rows, material: Sequence[Entry | None] | None) -> None:
        records = [record.use() if record is not None else None for record in material or ()]
        layout = self._layout
        target = job.arrays(layout) if layout is not None else None
        assert target is None or isinstance(target, SharedArrays)
        where = f"{self._work.items_name(rows.epoch, rows.shard, rows.k)}"
        answer = self._helpers[worker].do(rows, records, target, where)
        self._meter.add(answer.times)
        self._meter.add_process(cpu_seconds=answer.cpu_seconds)
        self._pace.done(len(rows), answer.times.total)
        if answer.error is not None:
            raise answer.error
        job.add_broken(answer.broken)
        if answer.made is not None and len(answer.made.place):
            # Among the first rows of all: nobody knew how large they would be.
            put(answer.made, rows, self._work, job.arrays, Times())
            self._layout = layout_of(answer.made.chunk)

    def helper(self, worker: int) -> str:
        return self._helpers[worker].name

    def stop(self, *, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for helper in self._helpers:
            helper.stop(deadline)

    def clear(self) -> None:
        for helper in self._helpers:
            helper.clear()
        if self._owns_pool:
            self._pool.close()
        self._live.clear()


class _Helper:
    """The process of one worker: started when it is first needed, and replaced when it dies."""

    def __init__(self, pool: WorkerPool, orders: bytes, meter: Meter) -> None:
        self._pool, self._orders, self._meter = pool, orders, meter
        self._process: WorkerProcess | None = None
        self._is_free = threading.Event()
        self._is_free.set()
        self._has_stopped = False
        self._stored_bytes = 0
        #: Numbers of arrays that are not used any more, and of which the process has not been told.
        self.forgotten: deque[int] = deque()

    @property
    def name(self) -> str:
        process = self._process
        return f" (process {process.number})" if process is not None else " (its process is being started)"

    def do(self, rows: Rows, records: list[object], target: SharedArrays | None, where: str) -> Answer:
        """Have it done. Raises :class:`ExampleError` where that kills the process again and again."""
        self._is_free.clear()
        try:
            for _ in range(_MOST_DEATHS):
                try:
                    return self._ask(rows, records, target)
                except (EOFError, OSError):
                    code = self._bury()
                    if self._has_stopped:
                        raise
                    self._meter.add_process(num_restarts=1)
                    _LOG.warning(
                        "A worker process died (exit code %s) at %s. It is replaced, and its examples are read again.",
                        code,
                        where,
                    )
            raise ExampleError("worker", where, f"the worker process died {_MOST_DEATHS} times (exit code {code})")
        finally:
            self._is_free.set()

    def stop(self, deadline: float) -> None:
        """Nothing is wanted any more: a process that is at work at ``deadline`` is killed."""
        self._has_stopped = True
        if not self._is_free.wait(max(0.0, deadline - time.monotonic())):
            process = self._process
            if process is not None:
                process.kill()

    def clear(self) -> None:
        """Give the process back; it is idle, or was killed."""
        process, self._process = self._process, None
        if process is None:
            return
        self._account(-self._stored_bytes)
        if self._is_free.is_set():
            self._pool.give_back(process)
        else:
            process.kill()
            process.close()

    def _ask(self, rows: Rows, records: list[object], target: SharedArrays | None) -> Answer:
        process = self._process
        if process is None:
            process = self._process = self._pool.take()
            process.order(self._orders)
        if target is not None and target.number not in process.known:
            forgotten = []
            while self.forgotten:
                forgotten.append(self.forgotten.popleft())
            process.known.difference_update(forgotten)
            process.show(target, tuple(forgotten))
        answer = process.ask(Request(rows, records, target.number if target is not None else None))
        self._account(answer.stored_bytes)
        return answer

    def _account(self, num_bytes: int) -> None:
        self._stored_bytes += num_bytes
        self._meter.add_stored(num_bytes)

    def _bury(self) -> int | None:
        process, self._process = self._process, None
        self._account(-self._stored_bytes)  # it has gone with the process
        return process.close() if process is not None else None


def _forget(books: list[deque[int]], number: int) -> None:
    for book in books:
        book.append(number)


def _pickled(orders: Orders) -> bytes:
    file = io.BytesIO()
    cloudpickle.CloudPickler(file).dump(orders)
    return file.getvalue()
