"""Runs trials as processes of this machine, forked from one preloaded server per framework."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from typing import final

from dataecho_search.workers.pool import Completion, Pool, PoolContext, TrialAttempt

_SECONDS_TO_END = 5.0
_START = """
import sys
sys.path[:] = {path!r}
from multiprocessing.connection import Connection
from dataecho_search.workers.fork_server import serve
serve(Connection({handle}), {modules!r}, parent={parent})
"""


@final
class ProcessPool(Pool):
    """Forks every trial from its backend's server. ``preload``: the modules that a server imports besides those of its
    runs, where they are installed; by backend, and under ``all`` for every backend."""

    def __init__(self, context: PoolContext, *, preload: dict[str, list[str]]) -> None:
        self._context = context
        self._modules = {
            backend: [*modules, *preload.get("all", []), *preload.get(backend, [])]
            for backend, modules in context.modules.items()
        }
        self._lost: list[Completion] = []
        # Started here so that they import while the sweep asks for the first points.
        self._servers = {backend: self._new_server(backend) for backend in self._modules}

    @property
    def num_slots(self) -> int:
        return self._context.num_slots

    def submit(self, attempt: TrialAttempt) -> None:
        if attempt.backend not in self._servers:
            self._servers[attempt.backend] = self._new_server(attempt.backend)
        server = self._servers[attempt.backend]
        try:
            server.send("run", attempt.key, attempt.payload)
        except (BrokenPipeError, ConnectionError):
            self._lost.append(Completion(key=attempt.key, exit_code=None, reason="its server process died"))
            self._drop(attempt.backend)
            return
        server.keys.add(attempt.key)

    def wait(self, timeout: float) -> Sequence[Completion]:
        completions, self._lost = self._lost, []
        pipes = {server.pipe: backend for backend, server in self._servers.items()}
        if not pipes:
            if not completions:
                time.sleep(timeout)
            return completions
        for pipe in connection.wait(list(pipes), 0 if completions else timeout):
            backend = pipes[pipe]  # type: ignore[index]
            server = self._servers[backend]
            try:
                while server.pipe.poll():
                    _, key, code, reason = server.pipe.recv()
                    server.keys.discard(key)
                    completions.append(Completion(key=key, exit_code=code, reason=reason))
            except (EOFError, ConnectionError):
                completions += self._drop(backend)
        return completions

    def interrupt(self) -> None:
        for server in self._servers.values():
            with contextlib.suppress(OSError):
                server.send("signal", int(signal.SIGTERM))

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def _new_server(self, backend: str) -> _ForkServerProcess:
        return _ForkServerProcess(self._modules[backend], self._context.environment)

    def _drop(self, backend: str) -> list[Completion]:
        """Forget a server that died, and complete its trials as lost. The next trial starts a new server."""
        server = self._servers.pop(backend)
        server.close()
        return [Completion(key=key, exit_code=None, reason="its server process died") for key in sorted(server.keys)]


class _ForkServerProcess:
    """The parent's side of :func:`dataecho_search.workers.fork_server.serve`."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.keys: set[str] = set()
        self.pipe, theirs = connection.Pipe()
        handle = theirs.fileno()
        program = _START.format(path=sys.path, handle=handle, modules=list(modules), parent=os.getpid())
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[handle],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the parent only, which passes it on
        )
        theirs.close()

    def send(self, *message: object) -> None:
        self.pipe.send(message)

    def close(self) -> None:
        self.pipe.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
