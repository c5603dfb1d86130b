"""The clocks and reads of a run, written about every second, so that a resume after a kill knows what was spent.

Counts of training go back to the checkpoint on resume; time and reads are spent.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

FILE_NAME = "heartbeat.json"


class Heartbeat:
    """Writer of ``heartbeat.json`` in a run folder, at most once in ``interval`` seconds."""

    def __init__(self, folder: Path, *, interval: float = 1.0, now: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / FILE_NAME
        self._interval, self._now = interval, now
        self._next = now() + interval

    def is_due(self) -> bool:
        """Whether the interval has passed; cheap."""
        return self._now() >= self._next

    def beat(self, *, wall_time: float, train_time: float, read_examples: int) -> None:
        """Write what has been spent."""
        self._next = self._now() + self._interval
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({"wall_time": wall_time, "train_time": train_time, "read_examples": read_examples}))
        draft.replace(self._path)


def read_heartbeat(folder: Path) -> dict[str, float]:
    """The last beat; zeros where there was none, or the machine died while it was written."""
    try:
        beat = json.loads((folder / FILE_NAME).read_text())
        return {name: float(beat[name]) for name in ("wall_time", "train_time", "read_examples")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"wall_time": 0.0, "train_time": 0.0, "read_examples": 0.0}
