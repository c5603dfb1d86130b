"""No tracking. The spool in the run folder is still written: nothing is lost by choosing this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from dataecho.training.contracts import RunInfo, Tracker


@final
class NoTracker(Tracker):
    """Records nothing, writes nothing, starts no thread."""

    def start(self, run: RunInfo) -> None:
        """Nothing to begin."""

    def covered(self, position: int) -> None:
        """Nothing to send."""

    def finish(self, *, status: str, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
        """Nothing to end."""

    @property
    def where(self) -> str:
        """Nowhere."""
        return ""
