"""The contract of a hook: it is called between steps, and changes nothing of what is computed."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataecho.training.contracts.backend import Backend


@dataclass(frozen=True, kw_only=True)
class HookInfo:
    """The run after a step. ``metrics``: those of the newest mark, by their names in ``docs/reference/metrics.md``;
    empty before the first. ``folder``: the run folder; on ranks other than the first, a temporary one."""

    steps: int
    fresh_examples: int
    metrics: Mapping[str, float]
    backend: Backend
    folder: Path

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that should write."""
        return self.backend.ranks.is_first


class Hook(abc.ABC):
    """Every rank calls every hook, after the same step and in the same order, so that a hook may use the backend's
    collective methods. The clock of ``train_time`` and the input side stand still meanwhile. An error ends the run."""

    @abc.abstractmethod
    def __call__(self, info: HookInfo) -> None:
        """Look at the run, and write what should be kept into ``info.folder``."""
