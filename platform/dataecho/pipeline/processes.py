"""Worker processes, for code that does not let go of Python's lock: the same work in the same order of the plan.

Worker = entry ordinal mod number of workers, so that all uses of an item are at one worker, which keeps its results.
Rows are written straight into the batch, in memory that parent and children share. A worker that dies is replaced; its
piece of work is done again, and what it had kept is read again.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dataecho.errors import SettingError
from dataecho.pipeline.batch import Arrays, Layout, layout_of
from dataecho.pipeline.crew import Crew, Material
from dataecho.pipeline.fill import fill, put
from dataecho.pipeline.heap import keep_freed_memory
from dataecho.pipeline.job import Job
from dataecho.pipeline.meter import Meter, Times
from dataecho.pipeline.pace import Pace
from dataecho.pipeline.rows import Rows
from dataecho.pipeline.shelf import Shelf
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Broken, Example, ExampleError, Stage
from dataecho.pipeline.store import Entry, Store
from dataecho.pipeline.work import Made, Work

_LOG = logging.getLogger(__name__)
_ALIGNMENT = 64
_MOST_DEATHS = 2  # of workers over the same piece of work


class ProcessCrew(Crew):
    """``num_workers`` processes. Source and stages travel to them once, so they must be picklable."""

    def __init__(
        self,
        work: Work,
        stages: Sequence[Stage],
        meter: Meter,
        *,
        echo_after: str,
        seed: int,
        num_workers: int,
        pace: Pace,
    ) -> None:
        self._work, self._meter = work, meter
        self._num_workers, self._pace = num_workers, pace
        self._live: set[int] = set()
        self._shared: dict[int, _SharedArrays] = {}
        self._layout: Layout | None = None
        try:
            order = pickle.dumps(_Orders(work.source, tuple(stages), echo_after, seed))
        except Exception as error:
            raise SettingError(
                "pipeline.num_processes",
                num_workers,
                allowed="0 for a source and stages that cannot be sent to another process",
                cure=f"Use functions of a module or methods of a plain class, or pipeline=threads ({error}).",
            ) from error
        self._workers = [_Worker(order) for _ in range(num_workers)]

    @property
    def num_queues(self) -> int:
        return self._num_workers

    def allocate(self, layout: Layout, batch_size: int) -> Arrays:
        shared = _SharedArrays(layout, batch_size)
        self._shared[id(shared.arrays)] = shared
        return shared.arrays

    def lacks(self, ordinal: int) -> bool:
        return ordinal not in self._live

    def cut(self, rows: Rows, records: dict[int, Entry]) -> list[tuple[int, Rows, Material]]:
        if self._work.echoes_items:
            last = rows.repeat == rows.num_repeats - 1
            self._live.update(rows.ordinal[~last].tolist())
            self._live.difference_update(rows.ordinal[last].tolist())
        owner = rows.ordinal % self._num_workers
        pieces = []
        for worker in range(self._num_workers):
            mine = np.flatnonzero(owner == worker)
            for which in self._pace.cut(len(mine)):
                part = rows[mine[which]]
                pieces.append((worker, part, [records.pop(ordinal, None) for ordinal in part.ordinal.tolist()]))
        return sorted(pieces, key=lambda piece: int(piece[1].place[0]))

    def make(self, worker: int, job: Job, rows: Rows, material: Material) -> None:
        records = [record.use() if record is not None else None for record in material]
        layout = self._layout
        target = self._shared[id(job.arrays(layout))] if layout is not None else None
        where = partial(self._where, rows)
        answer = self._workers[worker].do(_Piece(rows, records), target, self._meter, where)
        self._meter.add(answer.times)
        self._meter.add_process(cpu_seconds=answer.cpu_seconds)
        self._pace.done(len(rows), answer.times.total)
        self._meter.add_stored(answer.stored_bytes)
        if answer.error is not None:
            raise answer.error
        job.add_broken(answer.broken)
        if answer.made is not None and len(answer.made.place):
            # Among the first rows of all: nobody knew how large they would be.
            put(answer.made, rows, self._work, job.arrays, Times())
            self._layout = layout_of(answer.made.chunk)

    def _where(self, rows: Rows) -> str:
        return f"{self._work.where(rows.epoch[0], rows.shard[0], rows.k[0])} and the {len(rows) - 1} after it"

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._shared.clear()


@dataclass(frozen=True)
class _Orders:
    """What a worker is told once."""

    source: Source
    stages: tuple[Stage, ...]
    echo_after: str
    seed: int


@dataclass(frozen=True)
class _Piece:
    """What a worker is told each time; ``records``: what was read before, None where the worker is to read."""

    rows: Rows
    records: list[Example]


@dataclass(frozen=True)
class _Answer:
    """``made`` where there was no place to write to yet; ``stored_bytes``: by how much what is kept has grown."""

    times: Times
    cpu_seconds: float
    stored_bytes: int
    broken: dict[int, Broken]
    made: Made | None = None
    error: Exception | None = None


class _SharedArrays:
    """The arrays of a batch in a file without a name that another process can map."""

    def __init__(self, layout: Layout, batch_size: int) -> None:
        self.layout, self.batch_size = layout, batch_size
        folder = Path("/dev/shm")
        self.file = tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None)  # noqa: SIM115
        size = _shared_size(layout, batch_size)
        try:
            os.posix_fallocate(self.file.fileno(), 0, size)
        except OSError as error:
            raise SettingError(
                "pipeline.num_processes",
                f"batches of {size} bytes",
                allowed=f"what fits into {folder} ({error.strerror})",
                cure="Give it more room (docker run --shm-size), use smaller batches, or pipeline=threads.",
            ) from error
        self.arrays = _mapped(self.file.fileno(), layout, batch_size)


def _shared_size(layout: Layout, batch_size: int) -> int:
    return sum(_aligned(batch_size * _row_bytes(shape, dtype)) for shape, dtype in layout.values())


def _row_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _aligned(size: int) -> int:
    return max(-(-size // _ALIGNMENT), 1) * _ALIGNMENT


def _mapped(file: int, layout: Layout, batch_size: int) -> Arrays:
    memory = mmap.mmap(file, _shared_size(layout, batch_size))
    arrays, offset = {}, 0
    for name, (shape, dtype) in layout.items():
        size = batch_size * _row_bytes(shape, dtype)
        flat = np.frombuffer(memory, dtype=np.uint8, count=size, offset=offset)
        arrays[name] = flat.view(dtype).reshape(batch_size, *shape)
        offset += _aligned(size)
    return arrays


class _Worker:
    """The parent's side of one worker process, used by one thread; starts it, and replaces it when it dies."""

    def __init__(self, orders: bytes) -> None:
        self._orders = orders
        self._process: Any = None
        self._connection: Connection | None = None
        self._known: set[int] = set()

    def do(self, piece: _Piece, target: _SharedArrays | None, meter: Meter, where: Callable[[], str]) -> _Answer:
        """Have it done. Raises :class:`ExampleError` where that kills the worker again and again."""
        for _ in range(_MOST_DEATHS):
            try:
                return self._ask(piece, target)
            except (EOFError, OSError):
                code = self._bury()
                meter.add_process(num_restarts=1)
                _LOG.warning(
                    "A worker process died (exit code %s) at %s. It is replaced, and its examples are read again.",
                    code,
                    where(),
                )
        raise ExampleError("worker", where(), f"the worker process died {_MOST_DEATHS} times (exit code {code})")

    def close(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection.close()  # it ends when nobody speaks to it any more
            self._process.join(timeout=5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process, self._connection = None, None

    def _ask(self, piece: _Piece, target: _SharedArrays | None) -> _Answer:
        if self._connection is None:
            self._start()
        assert self._connection is not None
        number = None
        if target is not None:
            number = target.file.fileno()
            if number not in self._known:
                _send(self._connection, (number, target.layout, target.batch_size))
                reduction.send_handle(self._connection, number, self._process.pid)
                self._known.add(number)
        _send(self._connection, (piece, number))
        answer: _Answer = _receive(self._connection)
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._orders), name="dataecho-worker", daemon=True)
        self._process.start()
        other.close()
        error = _receive(self._connection)
        if error is not None:
            raise SettingError(
                "pipeline.num_processes",
                "a worker process",
                allowed="a source and stages that another process can import",
                cure=f"Define them in a module, or use pipeline=threads ({error}).",
            )

    def _bury(self) -> int | None:
        process, connection = self._process, self._connection
        self._process, self._connection = None, None
        self._known.clear()
        if connection is not None:
            connection.close()
        process.join(timeout=5)
        if process.is_alive():
            process.kill()
            process.join()
        code: int | None = process.exitcode
        return code


def _serve(connection: Connection, orders: bytes) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    keep_freed_memory()
    try:
        told: _Orders = pickle.loads(orders)
        servant = _Servant(told)
    except Exception as error:
        _send(connection, f"{type(error).__name__}: {error}")
        return
    _send(connection, None)
    buffers: dict[int, Arrays] = {}
    while True:
        try:
            message = _receive(connection)
        except EOFError:  # the parent has gone
            return
        if len(message) == 3:
            number, layout, batch_size = message
            file = reduction.recv_handle(connection)
            buffers[number] = _mapped(file, layout, batch_size)
            os.close(file)
            continue
        piece, number = message
        _send(connection, servant.do(piece, buffers[number] if number is not None else None))


def _send(connection: Connection, message: Any) -> None:
    # Connection.send pickles in half as much time again: it sets up anew, for each, what else could be sent.
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def _receive(connection: Connection) -> Any:
    """What is unpickled was pickled by the parent or by its child, over a pipe of their own."""
    return pickle.loads(connection.recv_bytes())


class _Servant:
    """What a worker process does, and what it keeps."""

    def __init__(self, orders: _Orders) -> None:
        self._work = Work(orders.source, orders.stages, echo_after=orders.echo_after, seed=orders.seed)
        self._grown = 0
        self._shelf = Shelf(self._account)
        self._store = Store(self._shelf, echoes_items=self._work.echoes_items)

    def do(self, piece: _Piece, arrays: Arrays | None) -> _Answer:
        times, started, self._grown = Times(), time.process_time(), 0
        broken: dict[int, Broken] = {}
        made: Made | None = None
        failure: Exception | None = None
        try:
            ordinals = piece.rows.ordinal.tolist()
            records = {
                ordinal: Entry.of(record)
                for ordinal, record in zip(ordinals, piece.records, strict=True)
                if record is not None
            }
            entries = self._store.take(piece.rows, records)
            if arrays is None:
                made = self._work.make(piece.rows, entries, times)
                found, made = made.broken, replace(made, broken={})
            else:
                found = fill(piece.rows, entries, self._work, lambda _: arrays, times)
            broken = {row: Broken(example.reason, example.stage) for row, example in found.items()}
        except Exception as error:
            failure = error if isinstance(error, ExampleError) else RuntimeError(f"{type(error).__name__}: {error}")
        spent = time.process_time() - started
        return _Answer(times, spent, self._grown, broken, made, failure)

    def _account(self, num_bytes: int, num_spilled: int) -> None:
        self._grown += num_bytes
