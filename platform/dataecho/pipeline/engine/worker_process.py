"""The life of a worker process: a fresh interpreter that is told what to do over a private pair of sockets."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import time
from dataclasses import replace
from multiprocessing import reduction
from multiprocessing.connection import Connection

from dataecho.pipeline.accounting.meter import Times
from dataecho.pipeline.batch import Arrays
from dataecho.pipeline.engine.fill import fill
from dataecho.pipeline.engine.heap import keep_freed_memory
from dataecho.pipeline.engine.messages import Answer, Memory, Orders, Request, Rest, receive, send
from dataecho.pipeline.engine.shared_memory import mapped
from dataecho.pipeline.engine.work import Made, Work
from dataecho.pipeline.stage import Broken, ExampleError
from dataecho.pipeline.storage.spill import SpillCache
from dataecho.pipeline.storage.store import Entry, Store


def main(commands: int, alive: int) -> None:
    """Serve over the socket ``commands`` until its other end closes; die with the other end of ``alive``, whatever is
    being done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _die_with(alive)
    keep_freed_memory()
    with Connection(commands) as connection, contextlib.suppress(EOFError, ConnectionError):
        _serve(connection)


def _die_with(alive: int) -> None:
    """The kernel ends this process when its parent has gone, also in the middle of a call that never returns: it sends
    SIGIO, which ends a process by default, when the other end of the socket closes."""
    import fcntl

    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alive, fcntl.F_SETFL, fcntl.fcntl(alive, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    with socket.socket(fileno=os.dup(alive)) as other, contextlib.suppress(BlockingIOError):
        if other.recv(1) == b"":  # it had gone before
            os._exit(0)


def _serve(connection: Connection) -> None:
    worker: _Worker | None = None
    arrays: dict[int, Arrays] = {}
    while True:
        message = receive(connection)
        if isinstance(message, bytes):  # orders, as the parent has pickled them once for all its workers
            worker = None
            try:
                worker = _Worker(pickle.loads(message))
            except Exception as error:
                send(connection, f"{type(error).__name__}: {error}")
                continue
            send(connection, None)
        elif isinstance(message, Memory):
            file = reduction.recv_handle(connection)
            arrays[message.number] = mapped(file, message.layout, message.num_rows)
            os.close(file)
            for number in message.forgotten:
                arrays.pop(number, None)
        elif isinstance(message, Rest):
            worker = None
            arrays.clear()
            send(connection, None)
        else:
            assert worker is not None
            send(connection, worker.do(message, arrays[message.number] if message.number is not None else None))


class _Worker:
    """The pipeline of some orders, and what is kept for it."""

    def __init__(self, orders: Orders) -> None:
        self._work = Work(orders.source, orders.stages, echo=orders.echo, seed=orders.seed)
        self._grown = 0
        self._cache = SpillCache(self._account)
        self._store = Store(self._cache, echoes_items=self._work.echo.echoes_items)

    def do(self, request: Request, arrays: Arrays | None) -> Answer:
        """Make some rows. What fails is told in the answer."""
        times, started, self._grown = Times(), time.process_time(), 0
        broken: dict[int, Broken] = {}
        made: Made | None = None
        failure: Exception | None = None
        entries: list[Entry] | None = None
        try:
            records = {
                ordinal: Entry.of(record)
                for ordinal, record in zip(request.rows.ordinal.tolist(), request.records, strict=True)
                if record is not None
            }
            entries = self._store.take(request.rows, records)
            if arrays is None:
                made = self._work.make(request.rows, entries, times)
                found, made = made.broken, replace(made, broken={})
            else:
                found = fill(request.rows, entries, self._work, lambda _: arrays, times)
            broken = {row: Broken(example.reason, example.stage) for row, example in found.items()}
        except Exception as error:
            failure = error if isinstance(error, ExampleError) else RuntimeError(f"{type(error).__name__}: {error}")
            for entry in entries or ():
                entry.fail(failure)
        for entry in entries or ():
            entry.used()
        return Answer(times, time.process_time() - started, self._grown, broken, made, failure)

    def _account(self, num_bytes: int, num_spilled: int) -> None:
        self._grown += num_bytes
