"""Work done and the seconds it took. Thread-safe sums; read them as differences between two moments."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


class Times:
    """Seconds and examples per stage of one piece of work; not shared between threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.num_examples: dict[str, int] = {}
        self._stage, self._started = "", 0.0

    def of(self, stage: str, num_examples: int) -> Times:
        """A context in which ``stage`` does its work; contexts are not nested."""
        self.num_examples[stage] = self.num_examples.get(stage, 0) + num_examples
        self._stage, self._started = stage, time.perf_counter()
        return self

    def add(self, stage: str, num_examples: int, seconds: float) -> None:
        """``stage`` has done its work."""
        self.num_examples[stage] = self.num_examples.get(stage, 0) + num_examples
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spent = time.perf_counter() - self._started
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent


@dataclass(frozen=True)
class Reading:
    """Sums since the start.

    ``upstream_seconds``, ``downstream_seconds``: what workers spent up to the echo point and after it;
    ``transfer_seconds``: in which at least one thread of its own was fetching or reading; ``stage_seconds`` and
    ``stage_examples`` by stage, whoever did it; ``worker_cpu_seconds``: of worker processes; ``num_reads`` in examples;
    ``num_restarts`` of worker processes. Bytes now and at most: ``stored`` results, ``waiting`` records,
    ``spilled`` ones among them, and their means over all deliveries; ``batch_bytes`` allocated for batches;
    ``fetched_bytes`` travelled.
    """

    upstream_seconds: float = 0.0
    downstream_seconds: float = 0.0
    transfer_seconds: float = 0.0
    worker_cpu_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    stage_examples: dict[str, int] = field(default_factory=dict)
    num_reads: int = 0
    num_restarts: int = 0
    fetched_bytes: int = 0
    stored_bytes: int = 0
    max_stored_bytes: int = 0
    waiting_bytes: int = 0
    max_waiting_bytes: int = 0
    spilled_bytes: int = 0
    mean_stored_bytes: float = 0.0
    mean_waiting_bytes: float = 0.0
    batch_bytes: int = 0


class Meter:
    """Shared by everything that works for one executor. ``upstream``: names of the stages up to the echo point."""

    def __init__(self, upstream: frozenset[str]) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._workers, self._others = Times(), Times()
        self._transfer_seconds, self._num_transfers, self._transfer_started = 0.0, 0, 0.0
        self._cpu_seconds = 0.0
        self._num_restarts = self._fetched_bytes = 0
        self._stored = self._max_stored = self._waiting = self._max_waiting = self._spilled = self._batches = 0
        self._num_deliveries = self._sum_stored = self._sum_waiting = 0

    def add(self, times: Times, *, by_worker: bool = True) -> None:
        """A piece of work is done, by a worker or by a reader."""
        with self._lock:
            total = self._workers if by_worker else self._others
            for stage, seconds in times.seconds.items():
                total.seconds[stage] = total.seconds.get(stage, 0.0) + seconds
                total.num_examples[stage] = total.num_examples.get(stage, 0) + times.num_examples[stage]

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """A context in which data are on their way."""
        with self._lock:
            self._num_transfers += 1
            if self._num_transfers == 1:
                self._transfer_started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._num_transfers -= 1
                if self._num_transfers == 0:
                    self._transfer_seconds += time.perf_counter() - self._transfer_started

    def add_fetched(self, num_bytes: int) -> None:
        """A shard has come."""
        with self._lock:
            self._fetched_bytes += num_bytes

    def add_process(self, *, cpu_seconds: float = 0.0, num_restarts: int = 0) -> None:
        """A worker process has worked, or was replaced."""
        with self._lock:
            self._cpu_seconds += cpu_seconds
            self._num_restarts += num_restarts

    def add_stored(self, num_bytes: int) -> None:
        """A result was stored, or dropped (negative)."""
        with self._lock:
            self._stored += num_bytes
            self._max_stored = max(self._max_stored, self._stored)

    def add_waiting(self, num_bytes: int, num_spilled: int = 0) -> None:
        """A record waits for its first use, or no more (negative); ``num_spilled`` of its bytes lie in a file."""
        with self._lock:
            self._waiting += num_bytes
            self._spilled += num_spilled
            self._max_waiting = max(self._max_waiting, self._waiting)

    def add_batches(self, num_bytes: int) -> None:
        """Arrays were allocated."""
        with self._lock:
            self._batches += num_bytes

    def delivered(self) -> None:
        """A batch leaves: the moment in which the means are sampled."""
        with self._lock:
            self._num_deliveries += 1
            self._sum_stored += self._stored
            self._sum_waiting += self._waiting

    def read(self) -> Reading:
        """The sums now."""
        with self._lock:
            above = sum(seconds for stage, seconds in self._workers.seconds.items() if stage in self._upstream)
            in_transfer = time.perf_counter() - self._transfer_started if self._num_transfers else 0.0
            both = (self._workers, self._others)
            return Reading(
                upstream_seconds=above,
                downstream_seconds=sum(self._workers.seconds.values()) - above,
                transfer_seconds=self._transfer_seconds + in_transfer,
                worker_cpu_seconds=self._cpu_seconds,
                stage_seconds=_summed(times.seconds for times in both),
                stage_examples=_summed(times.num_examples for times in both),
                num_reads=sum(times.num_examples.get("read", 0) for times in both),
                num_restarts=self._num_restarts,
                fetched_bytes=self._fetched_bytes,
                stored_bytes=self._stored,
                max_stored_bytes=self._max_stored,
                waiting_bytes=self._waiting,
                max_waiting_bytes=self._max_waiting,
                spilled_bytes=self._spilled,
                mean_stored_bytes=self._sum_stored / max(self._num_deliveries, 1),
                mean_waiting_bytes=self._sum_waiting / max(self._num_deliveries, 1),
                batch_bytes=self._batches,
            )


def _summed(parts: Iterable[Mapping[str, _Number]]) -> dict[str, _Number]:
    total: dict[str, _Number] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total
