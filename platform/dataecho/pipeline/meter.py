"""What the workers did and how long it took. Thread-safe sums; read them as differences between two moments."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """Sums since the start: seconds that workers spent up to the echo point and after it, examples read, bytes of
    stored results now and at most."""

    upstream_seconds: float
    downstream_seconds: float
    num_reads: int
    stored_bytes: int
    max_stored_bytes: int


class Meter:
    """Shared by the workers of one executor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._upstream_seconds = self._downstream_seconds = 0.0
        self._num_reads = self._stored_bytes = self._max_stored_bytes = 0

    def add_upstream(self, seconds: float, *, num_reads: int = 0) -> None:
        """A chunk went through the stages up to the echo point."""
        with self._lock:
            self._upstream_seconds += seconds
            self._num_reads += num_reads

    def add_downstream(self, seconds: float) -> None:
        """A chunk went through the stages after the echo point."""
        with self._lock:
            self._downstream_seconds += seconds

    def add_stored(self, num_bytes: int) -> None:
        """A result was stored, or dropped (negative)."""
        with self._lock:
            self._stored_bytes += num_bytes
            self._max_stored_bytes = max(self._max_stored_bytes, self._stored_bytes)

    def read(self) -> Reading:
        """The sums now."""
        with self._lock:
            return Reading(
                self._upstream_seconds,
                self._downstream_seconds,
                self._num_reads,
                self._stored_bytes,
                self._max_stored_bytes,
            )
