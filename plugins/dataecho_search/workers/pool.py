"""The contract of a pool of workers, which runs trials and reports each one's end."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrialAttempt:
    """One attempt at a trial; a trial whose worker is lost is attempted again. ``key`` is unique in the pool;
    ``backend``: the only framework that the attempt imports; ``folder``: its absolute run folder; ``payload``: the
    argument of :func:`dataecho_search.workers.trial_process.execute`, which must run in a process of its own."""

    key: str
    backend: str
    folder: Path
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class PoolContext:
    """The facts of a sweep that every pool gets. ``folder``: the sweep's, which contains all run folders;
    ``num_slots``: attempts at a time; ``threads_per_trial``: compute threads; ``modules``: by backend, the modules that
    its trials import; ``environment``: variables to set before a trial's first import."""

    folder: Path
    num_slots: int
    threads_per_trial: int
    modules: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The end of an attempt. ``exit_code``: that of its process (0: the task function returned), or None where the
    worker was lost: killed, out of memory, node gone. ``reason`` describes the loss."""

    key: str
    exit_code: int | None
    reason: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether the worker was lost, so that another attempt may succeed."""
        return self.exit_code is None


class Pool(abc.ABC):
    """Runs ``num_slots`` attempts at a time, each in its own process. No process outlives the pool, even where its
    owner is killed. A context manager."""

    @property
    @abc.abstractmethod
    def num_slots(self) -> int:
        """How many attempts may be submitted and not yet completed."""

    @abc.abstractmethod
    def submit(self, attempt: TrialAttempt) -> None:
        """Start ``attempt`` and return at once. At most :attr:`num_slots` at a time."""

    @abc.abstractmethod
    def wait(self, timeout: float) -> Sequence[Completion]:
        """Return what has completed since the last call, waiting at most ``timeout`` seconds for the first. Each
        attempt completes once."""

    @abc.abstractmethod
    def interrupt(self) -> None:
        """Ask every attempt to write a checkpoint and end, by SIGTERM or SIGINT; they complete as usual."""

    @abc.abstractmethod
    def close(self) -> None:
        """Kill every running attempt. May be called again."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
