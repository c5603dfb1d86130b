"""Shards that are fetched before the plan reaches them: which is next, which are here, which may go.

No thread and no data: the board asks, fetch pieces do it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

#: A shard in an epoch, and how many of its items have entered before: (epoch, shard, position).
Visit = tuple[int, int, int]


class ShardVisits:
    """The order of ``visits`` in which a plan reaches shards. At most ``num_ahead`` shards, besides those that the plan
    has reached, are here or on their way; ``lengths`` grows while shards are fetched.

    The next fetch begins when the one before has a place for its bytes, so a shard never takes the place of one that
    the plan needs earlier: whatever has a place is earlier, and is read and dropped without waiting for what is later.
    """

    def __init__(self, visits: Iterator[Visit], lengths: Mapping[int, int], *, num_ahead: int) -> None:
        self._visits, self._lengths, self._num_ahead = visits, lengths, num_ahead
        self._next: Visit | None = None
        self._open: dict[tuple[int, int], _Visit] = {}
        self._copies: dict[int, _Copy] = {}
        self._without_place: int | None = None
        self._dropping: set[int] = set()

    @property
    def num_open(self) -> int:
        """Visits that have begun and are not over."""
        return len(self._open)

    def next_fetch(self) -> int | None:
        """The shard to fetch now, if any; from now on it is on its way."""
        while self._without_place is None and sum(not visit.reached for visit in self._open.values()) < self._num_ahead:
            if self._next is None:
                self._next = next(self._visits, None)
                if self._next is None:
                    return None
            epoch, shard, position = self._next
            if self._lengths.get(shard) == position:  # empty, or all of it had entered before a resume
                self._next = None
                continue
            if shard in self._dropping:  # first it goes, then it comes again
                return None
            self._next = None
            self._open[epoch, shard] = _Visit(position)
            if shard in self._copies:
                self._copies[shard].num_visits += 1
                continue
            self._copies[shard] = _Copy()
            self._without_place = shard
            return shard
        return None

    def has_place(self, shard: int) -> None:
        """The bytes of ``shard`` have a place: the next fetch may begin."""
        if self._without_place == shard:
            self._without_place = None

    def fetched(self, shard: int) -> None:
        """``shard`` is here, and its length is known."""
        self.has_place(shard)
        self._copies[shard].is_here = True
        if self._lengths[shard] == 0:  # a plan that knows that a shard is empty does not come by
            for (_, other), visit in self._open.items():
                visit.reached = visit.reached or other == shard

    def fetch_failed(self, shard: int, error: BaseException) -> None:
        """``shard`` cannot be had: whoever reaches it is told ``error``."""
        self.has_place(shard)
        self._copies[shard].error = error

    def reach(self, shard: int, epoch: int | None) -> bool:
        """The plan has reached ``shard``, in its next visit if no ``epoch`` is given. Whether it is here. Raises what
        fetching it raised."""
        key = next((key for key in self._open if key[1] == shard and epoch in (None, key[0])), None)
        if key is None:
            return False
        self._open[key].reached = True
        copy = self._copies[shard]
        if copy.error is not None:
            raise copy.error
        return copy.is_here

    def read(self, items: Iterable[tuple[int, int]]) -> list[int]:
        """Items (epoch, shard) have been read, or never will be. The shards that may go now."""
        gone = []
        for key in items:
            visit = self._open.get(key)
            if visit is None:  # had entered before a resume
                continue
            visit.num_read += 1
            if visit.num_read < self._lengths[key[1]] - visit.position:
                continue
            del self._open[key]
            copy = self._copies[key[1]]
            copy.num_visits -= 1
            if copy.num_visits == 0:
                del self._copies[key[1]]
                self._dropping.add(key[1])
                gone.append(key[1])
        return gone

    def dropped(self, shard: int) -> None:
        """The copy of ``shard`` has gone."""
        self._dropping.discard(shard)

    def here(self) -> list[int]:
        """The shards whose copies are here, those that were to be dropped among them."""
        return [*(shard for shard, copy in self._copies.items() if copy.is_here), *self._dropping]


@dataclass(slots=True)
class _Visit:
    """A shard in one epoch, of whose items ``position`` had entered before."""

    position: int
    num_read: int = 0
    reached: bool = False


@dataclass(slots=True)
class _Copy:
    """A shard that is here, or on its way."""

    num_visits: int = 1
    is_here: bool = False
    error: BaseException | None = None
