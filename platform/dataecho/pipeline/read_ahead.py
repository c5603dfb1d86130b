"""Shards that are fetched before the plan reaches them, in its order, as many at once as the source asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from dataecho.pipeline.meter import Meter
from dataecho.pipeline.source import Source
from dataecho.plan.order import Ids

#: A shard in an epoch, and how many of its items have entered before: (epoch, shard, position).
Visit = tuple[int, int, int]


class Closed(Exception):
    """Nobody waits for the data any more."""


class ReadAhead:
    """Fetches and drops shards for one feed; remembers lengths, so that no source is asked twice.

    At most ``num_ahead`` shards, besides those that the plan has reached, are here or on their way. For a source that
    needs no fetching it only remembers lengths.
    """

    def __init__(self, source: Source, *, num_ahead: int) -> None:
        self._source = source
        self._visits: Iterator[Visit] = iter(())
        self._num_ahead = max(num_ahead, source.num_fetches)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._lengths: dict[int, int] = {}
        self._open: dict[tuple[int, int], _Visit] = {}
        self._copies: dict[int, _Copy] = {}
        self._paused = self._closed = False
        self._threads: list[threading.Thread] = []
        #: What is done with items that enter the plan: the executor's affair.
        self.on_enter: Callable[[Ids], None] = lambda items: None

    def along(self, visits: Iterator[Visit]) -> ReadAhead:
        """The same, with the order in which shards will be reached (which only a plan with lengths knows)."""
        self._visits = visits
        return self

    def num_examples(self, shard: int) -> int:
        """For the plan that runs ahead: a shard's length, when it has been fetched; the plan has then reached it.
        Raises what fetching it raised, and :class:`Closed`."""
        if self._threads:
            self._wait(shard, epoch=None)
        return self.length(shard)

    def length(self, shard: int) -> int:
        """A shard's length, for whoever comes after that plan."""
        with self._lock:
            known = self._lengths.get(shard)
        if known is None:
            known = self._source.num_examples(shard)
            with self._lock:
                self._lengths[shard] = known
        return known

    def start(self, meter: Meter) -> None:
        """Begin to fetch."""
        self._threads = [
            threading.Thread(target=self._run, args=(meter,), name=f"dataecho-fetch-{number}", daemon=True)
            for number in range(self._source.num_fetches)
        ]
        for thread in self._threads:
            thread.start()

    def entered(self, items: Ids) -> None:
        """These items (columns as in ``ITEM_COLUMNS``) have entered the plan: they can be read when their shards are
        here, before the plan reaches another. So what is here is no more than what is being read, and what is ahead."""
        if self._threads:
            for epoch, shard in dict.fromkeys(map(tuple, items[:, 1:3].tolist())):
                self._wait(shard, epoch=epoch)
        self.on_enter(items)

    def done(self, items: Iterable[tuple[int, int]]) -> None:
        """Items (epoch, shard) have been read, or never will be: a shard with none left may go."""
        if not self._threads:
            return
        with self._lock:
            for key in items:
                visit = self._open.get(key)
                if visit is None:  # had entered before a resume
                    continue
                visit.num_read += 1
                if visit.num_read == self._lengths[key[1]] - visit.position:
                    self._close_visit(key)
            self._changed.notify_all()

    def pause(self) -> None:
        """Stand still, but for the piece that is on its way."""
        with self._lock:
            self._paused = True

    def resume(self) -> None:
        """Go on."""
        with self._lock:
            self._paused = False
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody waits any more: whoever does is told so."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, and drop what was fetched."""
        self.stop()
        for thread in self._threads:
            thread.join()
        for shard, copy in self._copies.items():
            if copy.here:
                self._source.drop(shard)
        self._copies.clear()

    def _wait(self, shard: int, *, epoch: int | None) -> None:
        """The plan has reached a shard, in its next visit if no epoch is given: until the copy is here."""
        with self._lock:
            while True:
                if self._closed:
                    raise Closed
                key = next(
                    (key for key, visit in self._open.items() if key[1] == shard and epoch in (None, key[0])), None
                )
                if key is not None:
                    if not self._open[key].reached:
                        self._open[key].reached = True
                        self._changed.notify_all()  # there is room for another
                    copy = self._copies[shard]
                    if copy.error is not None:
                        raise copy.error
                    if copy.here:
                        return
                self._changed.wait()

    def _run(self, meter: Meter) -> None:
        while (shard := self._next()) is not None:
            error: BaseException | None = None
            num_bytes, length = 0, -1
            try:
                with meter.transfer():
                    num_bytes = self._source.fetch(shard, proceed=self._proceed)
                length = self.length(shard)
            except Closed:
                return
            except BaseException as caught:
                error = caught
            meter.add_fetched(num_bytes)
            with self._lock:
                copy = self._copies[shard]
                copy.here, copy.error = error is None, error
                self._changed.notify_all()
                if length == 0:
                    self._leave_empty(shard)

    def _next(self) -> int | None:
        """The next shard that is not here, once there is room for it."""
        with self._lock:
            while not self._closed:
                if self._paused or sum(not visit.reached for visit in self._open.values()) >= self._num_ahead:
                    self._changed.wait()
                    continue
                visit = next(self._visits, None)
                if visit is None:
                    return None
                epoch, shard, position = visit
                if self._lengths.get(shard) == position:  # empty, or all of it had entered before a resume
                    continue
                self._open[epoch, shard] = _Visit(position)
                if shard in self._copies:
                    self._copies[shard].num_visits += 1
                    continue
                self._copies[shard] = _Copy()
                return shard
            return None

    def _leave_empty(self, shard: int) -> None:
        """A plan that knows that a shard is empty does not come by."""
        for key in [key for key in self._open if key[1] == shard]:
            self._open[key].reached = True

    def _close_visit(self, key: tuple[int, int]) -> None:
        del self._open[key]
        copy = self._copies[key[1]]
        copy.num_visits -= 1
        if copy.num_visits == 0:
            del self._copies[key[1]]
            self._source.drop(key[1])

    def _proceed(self) -> None:
        with self._lock:
            while self._paused and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Closed


class _Visit:
    """A shard in one epoch, of whose items ``position`` had entered before."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.num_read = 0
        self.reached = False


class _Copy:
    """A shard that is here, or on its way."""

    def __init__(self) -> None:
        self.num_visits = 1
        self.here = False
        self.error: BaseException | None = None
