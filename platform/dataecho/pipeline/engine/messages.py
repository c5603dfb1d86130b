"""The messages between this process and its worker processes, over a private pair of sockets.

What is unpickled was pickled by the parent or by its child; nothing comes from a disk or a network.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from dataecho.pipeline.accounting.meter import Times
from dataecho.pipeline.batch import Layout
from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Made
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Broken, Example, Stage


@dataclass(frozen=True)
class Orders:
    """A pipeline to work for from now on."""

    source: Source
    stages: tuple[Stage, ...]
    echo: EchoPoint
    seed: int


@dataclass(frozen=True)
class Memory:
    """Shared arrays, whose file follows; ``forgotten``: numbers of those that are not used any more."""

    number: int
    layout: Layout
    num_rows: int
    forgotten: tuple[int, ...]


@dataclass(frozen=True)
class Rest:
    """Forget everything; other orders may come."""


@dataclass(frozen=True)
class Request:
    """Rows to make, in the arrays of this number (None: there are none yet); ``records``: what was read before, None
    where the worker is to read."""

    rows: Rows
    records: list[Example]
    number: int | None


@dataclass(frozen=True)
class Answer:
    """``made`` where there were no arrays yet; ``stored_bytes``: by how much what is kept has grown."""

    times: Times
    cpu_seconds: float
    stored_bytes: int
    broken: dict[int, Broken]
    made: Made | None = None
    error: Exception | None = None


def send(connection: Connection, message: Any) -> None:
    """Send what needs no more than the ordinary pickle: Connection.send takes half as much time again."""
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Any:
    """Wait for a message. Raises ``EOFError`` or ``OSError`` when the other side has gone."""
    return pickle.loads(connection.recv_bytes())
