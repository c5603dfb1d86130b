"""Results that are kept from first need to last use."""

from __future__ import annotations

from typing import Any

from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.stage import Example, own
from dataecho.pipeline.storage.spill import Kept, SpillCache


class Entry:
    """One result: made by the first piece of work that needs it, gone after its last use.

    ``maker``: that piece, from when it is planned; ``record``: what the result is made from, where that is read before.
    A piece starts after the makers of what it needs, so no entry is ever waited for, and two pieces never write to one.
    """

    __slots__ = ("_cache", "_error", "_kept", "_num_left", "_result", "is_done", "maker", "record")

    def __init__(self, cache: SpillCache, num_uses: int, record: Entry | None = None) -> None:
        self.maker: Any = None
        self.record = record
        #: Whether the result, or the error in its place, is there.
        self.is_done = False
        self._cache, self._num_left = cache, num_uses
        self._result: Example = None
        self._kept: Kept | None = None
        self._error: BaseException | None = None

    @classmethod
    def of(cls, result: Example) -> Entry:
        """A result that is there already, for one use."""
        entry = cls(_NO_CACHE, 1)
        entry.fulfil(result)
        return entry

    @property
    def is_shared(self) -> bool:
        """Whether it has uses after the next one."""
        return self._num_left > 1

    def fulfil(self, result: Example) -> None:
        """The result is there; it is kept if there are uses after the one that it was made for."""
        self.record = None
        if self._num_left > 1:
            self.hold(result)
        else:
            self._result, self.is_done = result, True

    def hold(self, result: Example) -> None:
        """The result is there, and waits for its uses. Raises :class:`DataError` where it finds no place."""
        self._kept = self._cache.put(result)
        self.is_done = True

    def fail(self, error: BaseException) -> None:
        """There will be no result: whoever uses it is told so. Nothing happens where it is there."""
        if not self.is_done:
            self._error, self.is_done = error, True

    def use(self) -> Example:
        """The result: a dictionary of the caller's own, with arrays that nobody can write into."""
        assert self.is_done, "a piece has started before what it needs was there"
        if self._error is not None:
            raise self._error
        return own(self._result if self._kept is None else self._cache.get(self._kept))

    def used(self) -> None:
        """One of the uses is over, whether it succeeded or not. Not thread-safe."""
        self._num_left -= 1
        if self._num_left == 0:
            self._result = None
            if self._kept is not None:
                self._cache.remove(self._kept)
                self._kept = None


class Store:
    """The entries of all items that will be used again, by entry ordinal. Asked in the order of the plan."""

    def __init__(self, cache: SpillCache, *, echoes_items: bool) -> None:
        self._cache = cache
        self._echoes_items = echoes_items
        self._entries: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def lacks(self, ordinal: int) -> bool:
        """Whether the item has to be read for its next use."""
        return ordinal not in self._entries

    def take(self, rows: Rows, records: dict[int, Entry]) -> list[Entry] | None:
        """An entry for every row, and out of ``records`` what they are made from; None where there is nothing to keep
        and no record was read before."""
        if not self._echoes_items or not (rows.num_repeats > 1).any():
            if not records:
                return None
            return [Entry(self._cache, 1, records.pop(ordinal, None)) for ordinal in rows.ordinal.tolist()]
        entries = []
        for ordinal, repeat, num_repeats in zip(
            rows.ordinal.tolist(), rows.repeat.tolist(), rows.num_repeats.tolist(), strict=True
        ):
            # After a resume the first use met may be a later repeat: what is left counts from there.
            entry = self._entries.get(ordinal) or Entry(self._cache, num_repeats - repeat, records.pop(ordinal, None))
            if repeat == num_repeats - 1:
                self._entries.pop(ordinal, None)
            else:
                self._entries[ordinal] = entry
            entries.append(entry)
        return entries

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


_NO_CACHE = SpillCache(lambda num_bytes, num_spilled: None)
