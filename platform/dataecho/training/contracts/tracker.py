"""The contract of a tracker: it records a run somewhere beside its folder."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The facts of a run that a tracker gets before the run starts. They hold no secrets.

    ``params``: the flattened configuration; ``tags``: short facts to filter by (task, echo, git revision ...);
    ``dataset``: name, digest and number of examples of the training source.
    """

    folder: Path
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: Mapping[str, Any]


class Tracker(abc.ABC):
    """Records a run outside of its folder. No method raises, or waits long, because a server fails."""

    @abc.abstractmethod
    def start(self, run: RunInfo) -> None:
        """Begin, or continue, the record of the run in ``run.folder``."""

    @abc.abstractmethod
    def covered(self, position: int) -> None:
        """A checkpoint covers the first ``position`` bytes of the spool: they are final and may be sent. Returns at
        once."""

    @abc.abstractmethod
    def finish(self, *, status: str, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
        """End the record: ``status`` is ``finished``, ``failed`` or ``interrupted``; everything in the spool that is
        covered, then ``artifacts`` and ``tags``, are sent within a bounded time, or kept for later."""

    @property
    @abc.abstractmethod
    def where(self) -> str:
        """A command or an address, without credentials, that shows the record; empty if there is none."""


@final
class NoTracker(Tracker):
    """Records nothing, writes nothing, starts no thread. The spool in the run folder is written all the same."""

    where = ""

    def start(self, run: RunInfo) -> None:
        pass

    def covered(self, position: int) -> None:
        pass

    def finish(self, *, status: str, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
        pass
