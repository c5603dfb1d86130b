"""Where trials run: anything that takes jobs and tells, one by one and in any order, how they ended."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at a trial. ``key`` tells it from every other job of the pool; ``backend``: the framework that it
    will import, and no other; ``folder``: its run folder, absolute; ``payload``: what
    :func:`dataecho_search.workers.trial_process.execute` takes, in a process that runs nothing else."""

    key: str
    backend: str
    folder: Path
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class PoolContext:
    """What a pool is built from besides its own settings. ``folder``: the sweep's, in which all run folders are;
    ``num_slots`` jobs at a time, of ``threads_per_trial`` compute threads each; ``modules``: what the trials of a
    backend import anyway, by its name; ``environment``: variables that have to be set before a trial's first import."""

    folder: Path
    num_slots: int
    threads_per_trial: int
    modules: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """How a job ended. ``exit_code`` as of a process that ended by itself (0 when the task function returned); None
    when its worker was lost: killed, out of memory, a node gone. ``reason`` says which, for people."""

    key: str
    exit_code: int | None
    reason: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether the same job may well succeed elsewhere."""
        return self.exit_code is None


class Pool(abc.ABC):
    """``num_slots`` jobs at a time, each in a process of its own. Nothing outlives the pool, however its owner ends. A
    context manager."""

    @property
    @abc.abstractmethod
    def num_slots(self) -> int:
        """How many jobs may have been submitted and not yet completed."""

    @abc.abstractmethod
    def submit(self, job: Job) -> None:
        """Start ``job``; returns at once. At most :attr:`num_slots` at a time."""

    @abc.abstractmethod
    def wait(self, timeout: float) -> Sequence[Completion]:
        """What has completed since the last call; waits at most ``timeout`` seconds for the first. Each job completes
        once."""

    @abc.abstractmethod
    def interrupt(self) -> None:
        """Ask every job to write a checkpoint and end (SIGTERM where there are signals); they complete as usual."""

    @abc.abstractmethod
    def close(self) -> None:
        """End whatever still runs, at once. May be called again."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
