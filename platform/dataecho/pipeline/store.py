"""Results that are kept from first need to last use."""

from __future__ import annotations

import threading

from dataecho.pipeline.rows import Rows
from dataecho.pipeline.shelf import Kept, Shelf
from dataecho.pipeline.stage import Example, own


class Entry:
    """One result: made by whoever claims it first, awaited by the others, gone after its last use."""

    def __init__(self, shelf: Shelf, num_uses: int, record: Entry | None = None) -> None:
        self.record = record  # what it is made from, where that was read before
        self._shelf = shelf
        self._lock = threading.Lock()
        self._num_left = num_uses
        self._claimed = False
        self._ready: threading.Event | None = None
        self._result: Example = None
        self._kept: Kept | None = None
        self._error: BaseException | None = None
        self._done = False

    @classmethod
    def of(cls, result: Example) -> Entry:
        """A result that is there already, for one use."""
        entry = cls(Shelf(lambda num_bytes, num_spilled: None), 1)
        entry.fulfil(result)
        return entry

    @property
    def is_at_hand(self) -> bool:
        """Whether it is there, or what it is made from: nobody who uses it waits for a read."""
        record = self.record
        return self._done or (record is not None and record._done)

    def claim(self) -> bool:
        """Whether the caller is to make this result. It makes all it claims before it waits for any other."""
        with self._lock:
            first = not self._claimed
            self._claimed = True
            return first

    def fulfil(self, result: Example) -> None:
        """The result is there; it is kept if there are uses after the one that it was made for."""
        self.record = None
        if self._num_left > 1:
            self.hold(result)
        else:
            self._finish(result, None)

    def hold(self, result: Example) -> None:
        """The result is there, and waits for its uses."""
        self._kept = self._shelf.put(result)
        self._finish(None, None)

    def fail(self, error: BaseException) -> None:
        """There will be no result: whoever asks is told so."""
        self._finish(None, error)

    def use(self) -> Example:
        """The result, once it is there: a dictionary of the caller's own with arrays that nobody can write into."""
        with self._lock:
            if not self._done and self._ready is None:
                self._ready = threading.Event()
        if self._ready is not None:
            self._ready.wait()
        if self._error is not None:
            raise self._error
        with self._lock:
            self._num_left -= 1
            last = self._num_left == 0
        if self._kept is None:
            return own(self._result)
        example = self._shelf.get(self._kept)
        if last:
            self._shelf.remove(self._kept)
        return own(example)

    def _finish(self, result: Example, error: BaseException | None) -> None:
        with self._lock:
            self._result, self._error = result, error
            self._done = True
            if self._ready is not None:
                self._ready.set()


class Store:
    """The entries of all items that will be used again, by entry ordinal. Asked in the order of the plan."""

    def __init__(self, shelf: Shelf, *, echoes_items: bool) -> None:
        self._shelf = shelf
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
            return [Entry(self._shelf, 1, records.pop(ordinal, None)) for ordinal in rows.ordinal.tolist()]
        entries = []
        for ordinal, repeat, num_repeats in zip(
            rows.ordinal.tolist(), rows.repeat.tolist(), rows.num_repeats.tolist(), strict=True
        ):
            # After a resume the first use met may be a later repeat: what is left counts from there.
            entry = self._entries.get(ordinal) or Entry(self._shelf, num_repeats - repeat, records.pop(ordinal, None))
            if repeat == num_repeats - 1:
                self._entries.pop(ordinal, None)
            else:
                self._entries[ordinal] = entry
            entries.append(entry)
        return entries

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
