"""A source that is slowed down on purpose, to see what a slow one would do. Whoever reports results must say so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dataecho.declare import SettingGroup, setting
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Chunk, as_examples, num_bytes

_NUM_READERS = 8  # so that latencies overlap, as they do with a real server
_PIECE = 0.2  # seconds that a fetch waits at most before it looks whether it may go on


_CURE = "Leave it out for the source's own speed."


@dataclass(frozen=True, kw_only=True)
class Throttle(SettingGroup, key="pipeline.throttle"):
    """Emulates a slow source; every result says so."""

    bytes_per_second: float | None = setting(
        None, above=0, help="Limit of bytes read per second; null: no limit.", cure=_CURE
    )
    examples_per_second: float | None = setting(
        None,
        above=0,
        help="Limit of examples read per second; null: no limit.",
        cure=_CURE,
    )
    ratio: float | None = setting(
        None,
        above=0,
        help="Limit of examples read per second by which a batch takes so many times as long as a step, which is "
        "measured before the clock runs; null: no limit.",
        cure=_CURE,
    )
    latency: float = setting(
        0.0,
        at_least=0,
        unit="seconds",
        help="Delay before each read, or each shard that is fetched.",
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits, by name; empty where nothing is."""
        return {name: value for name, value in asdict(self).items() if value}

    def slow_down(self, source: Source) -> Source:
        """``source`` itself where nothing is limited."""
        return ThrottledSource(source, self) if self.limits else source


class ThrottledSource(Source):
    """``source`` behind one slow line that all its readers share."""

    def __init__(self, source: Source, throttle: Throttle) -> None:
        self._source, self._throttle = source, throttle
        self._line, self._here = _Line(), _Line()  # to what is far away; to what was fetched

    @property
    def num_shards(self) -> int:
        return self._source.num_shards

    def num_examples(self, shard: int) -> int:
        return self._source.num_examples(shard)

    @property
    def random_access(self) -> bool:
        return self._source.random_access

    @property
    def num_readers(self) -> int:
        return max(self._source.num_readers, _NUM_READERS)

    @property
    def num_fetches(self) -> int:
        return self._source.num_fetches

    @property
    def limits_places(self) -> bool:
        return self._source.limits_places

    def fetch(self, shard: int, *, proceed: Callable[[], None], on_place: Callable[[], None] = lambda: None) -> int:
        started = time.monotonic()
        places = {"on_place": on_place} if self.limits_places else {}
        size = self._source.fetch(shard, proceed=proceed, **places)
        until = self._line.reserve(self._transfer_time(size), started) + self._throttle.latency if size else started
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _PIECE))
            before = time.monotonic()
            proceed()
            until += time.monotonic() - before  # while everything stands still, nothing arrives
        return size

    def drop(self, shard: int) -> None:
        self._source.drop(shard)

    @property
    def digest(self) -> str:
        return self._source.digest

    def name(self, shard: int, k: int) -> str:
        return self._source.name(shard, k)

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        started = time.monotonic()
        chunk = self._source.read(shards, ks)
        rate = self._throttle.examples_per_second
        seconds = len(ks) / rate if rate else 0.0
        if self._source.num_fetches:  # the bytes have come with their shard, after its latency
            until = self._here.reserve(seconds, started)
        else:
            seconds = max(seconds, self._transfer_time(sum(num_bytes(record) for record in as_examples(chunk))))
            until = self._line.reserve(seconds, started) + self._throttle.latency
        time.sleep(max(0.0, until - time.monotonic()))
        return chunk

    def _transfer_time(self, size: int) -> float:
        rate = self._throttle.bytes_per_second
        return size / rate if rate else 0.0


class _Line:
    """One after the other. Thread-safe; travels to another process without its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0

    def reserve(self, seconds: float, now: float) -> float:
        """When something that takes ``seconds`` will have come through; idle time is not saved up."""
        with self._lock:
            self._free_at = max(now, self._free_at) + seconds
            return self._free_at

    def __getstate__(self) -> dict[str, float]:
        return {"free_at": self._free_at}

    def __setstate__(self, state: dict[str, float]) -> None:
        self._lock, self._free_at = threading.Lock(), state["free_at"]
