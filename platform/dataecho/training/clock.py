"""Two clocks: ``wall_time`` is everything, ``train_time`` stands still while evaluating, logging and saving."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Clock:
    """Seconds since :meth:`start`, added to what earlier parts of a resumed run took."""

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._wall_before = self._train_before = 0.0
        self._started: float | None = None
        self._paused = 0.0
        self._paused_since: float | None = None

    def start(self) -> None:
        """Start both clocks."""
        self._started = self._now()

    def add(self, seconds: float) -> None:
        """Add seconds of work that was done for the run before :meth:`start`."""
        self._wall_before += seconds
        self._train_before += seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, ``train_time`` stands still; must not be nested."""
        self._paused_since = self._now()
        try:
            yield
        finally:
            self._paused += self._now() - self._paused_since
            self._paused_since = None

    @property
    def wall_time(self) -> float:
        """All time, in seconds."""
        return self._wall_before + (self._now() - self._started if self._started is not None else 0.0)

    @property
    def train_time(self) -> float:
        """The time outside of :meth:`stopped`, in seconds."""
        if self._started is None:
            return self._train_before
        until = self._paused_since if self._paused_since is not None else self._now()
        return self._train_before + until - self._started - self._paused

    def state_dict(self) -> dict[str, float]:
        """Both times."""
        return {"wall_time": self.wall_time, "train_time": self.train_time}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Call before :meth:`start`."""
        self._wall_before, self._train_before = state["wall_time"], state["train_time"]
