"""A process that has imported a framework and forks trials from itself, in milliseconds instead of seconds.

It trains nothing, starts no thread and touches no device. Each framework has a server of its own, so that no process
imports two frameworks.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

from dataecho_search.workers.parent_death import die_with

# Messages: ("run", key, payload) and ("signal", number) to the server; ("ended", key, exit code, reason) from it.


def serve(connection: Connection, modules: Sequence[str], *, parent: int) -> None:
    """Import ``modules``, then fork trials on request until the other end of ``connection`` is closed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    die_with(parent, by=signal.SIGTERM)  # not SIGKILL: the server must still kill what trials have started
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes Ctrl-C on, once
    for module in modules:
        with contextlib.suppress(ImportError):  # the trial reports it, and names the extra to install
            importlib.import_module(module)
    ForkServer(connection).serve()


class ForkServer:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._children: dict[int, str] = {}
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> None:
        try:
            while True:
                select.select([self._connection.fileno(), self._wake], [], [])
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._collect()
                while self._connection.poll():
                    self._handle(*self._connection.recv())
        except (EOFError, ConnectionError):
            pass
        finally:
            self._signal(signal.SIGKILL)

    def _handle(self, request: str, *arguments: object) -> None:
        if request == "run":
            key, payload = arguments
            me = os.getpid()
            # Until the trial has its own handlers, a signal would run the server's.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            pid = os.fork()
            if pid == 0:
                self._become_trial(payload, parent=me)
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # the child does the same: either may come first
            self._children[pid] = str(key)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        else:
            self._signal(int(str(arguments[0])))

    def _signal(self, number: int) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                # SIGTERM asks the trial itself for a checkpoint; SIGKILL also ends everything that it has started.
                (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)

    def _collect(self) -> None:
        for pid in list(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done == 0:
                continue
            key = self._children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # processes that the trial left behind
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else ""
            self._connection.send(("ended", key, code if code >= 0 else None, reason))

    def _become_trial(self, payload: object, *, parent: int) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            die_with(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            self._connection.close()
            from dataecho_search.workers.trial_process import execute

            assert isinstance(payload, bytes)
            code = execute(payload)
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
