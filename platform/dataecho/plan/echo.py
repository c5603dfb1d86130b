"""The echo: what enters is used n times, and leaves through one sliding shuffle buffer.

Items and, one level up, batches go through the same class. What is shuffled are the *uses*; a use's ``repeat`` is
numbered on leaving, so repeat 0 is always the first one trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.plan.factors import MAX_FACTOR, FactorHistory
from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Ids

_POSITION_BITS = 16  # a block has at most 2**16 uses, so (slot, position) packs into one sortable int64
MAX_BLOCK = 1 << _POSITION_BITS
assert MAX_FACTOR <= MAX_BLOCK


class EchoFactor:
    """How often each entry is used: floor(e) or floor(e) + 1 times, drawn from its entry ordinal (paper, section 3),
    where e is the factor that the history has for this ordinal."""

    def __init__(self, factors: FactorHistory, stream: KeyStream) -> None:
        self._factors = factors
        self._stream = stream

    def num_uses(self, ordinals: Ids) -> Ids:
        """Planned uses of the entries with these ordinals, int64."""
        factors = self._factors.at(ordinals)
        floors = np.floor(factors)
        fractions = factors - floors
        uses = floors.astype(np.int64)
        if fractions.any():
            uses += self._stream.uniform(ordinals) < fractions
        return uses

    def enter(self, first: int, num_wanted: int) -> Ids:
        """Planned uses of the entries from ordinal ``first`` on: as many as ``num_wanted`` uses need, no more."""
        return self._factors.settle(first, lambda: self._needed(first, num_wanted))

    def _needed(self, first: int, num_wanted: int) -> Ids:
        least, most_uses = self._factors.between(first, first + num_wanted)
        most = -(-num_wanted // int(least))
        if least == most_uses and least.is_integer():
            return np.full(most, int(least))
        uses = self.num_uses(np.arange(first, first + most))
        return uses[: int(np.searchsorted(np.cumsum(uses), num_wanted)) + 1]


@dataclass(frozen=True)
class Taken:
    """``n`` uses in buffer order, and what entered meanwhile.

    ``payload`` [n, width]; ``repeat``, ``num_repeats`` [n]; ``lag`` [n]: uses since the entry's previous use, 0 for its
    first; ``num_entered`` [n]: entries through each use, counted from the start of this block; ``entered`` [e, width].
    """

    payload: Ids
    repeat: Ids
    num_repeats: Ids
    lag: Ids
    num_entered: Ids
    entered: Ids


class Echo:
    """Entries in, uses out. Entries are rows ``[n, width]`` of int64.

    A buffer of ``buffer_length`` uses is filled first; then each step draws a slot, emits what is there and puts the
    next use in its place. ``buffer_length`` 0 passes uses through, copies side by side. Any sequence of ``take`` calls
    gives the same uses: every draw is keyed by its ordinal, so block sizes change nothing.
    """

    def __init__(
        self,
        *,
        width: int,
        factors: FactorHistory,
        buffer_length: int,
        seed: int,
        level: str,
    ) -> None:
        self._width = width
        self._factor = EchoFactor(factors, KeyStream(seed, f"{level}.uses"))
        self._slots = KeyStream(seed, f"{level}.buffer")
        self._buffer_length = buffer_length
        self._num_entered = self._num_left = 0
        self._pending_row, self._pending_copies = 0, 0
        self._buffer: NDArray[np.int64] | None = None
        self._table = _Table(width, max(64, buffer_length))
        self._next: tuple[int, Ids] | None = None  # the uses of the entries that enter for so many uses

    @property
    def num_entered(self) -> int:
        """Entries so far."""
        return self._num_entered

    def num_entering(self, count: int) -> int:
        """Entries that enter for the next ``count`` uses: exactly as many as these need. Ahead of that nothing is
        known, and nothing must depend on it. From now on no change of the factor concerns them."""
        return len(self._uses_entering(count))

    def take(self, count: int, entered: Ids) -> Taken:
        """The next ``count`` uses (at most :data:`MAX_BLOCK`); ``entered``: the :meth:`num_entering` entries they
        need."""
        num_uses = self._uses_entering(count)
        assert len(entered) == len(num_uses)
        self._next = None
        to_fill = self._num_to_fill
        rows = self._table.add(entered, num_uses)
        incoming, first_copies = self._push(rows, num_uses, to_fill + count)
        if self._buffer is None:
            self._buffer = incoming[:to_fill].copy()
            incoming = incoming[to_fill:]
        leaving = self._exchange(incoming)
        repeat, num_repeats, lag = self._table.use(leaving, self._num_left)
        payload = self._table.payload.take(leaving, axis=0)
        self._num_left += count
        if not to_fill and len(entered) == count:  # one for every use
            num_entered = np.arange(1, count + 1)
        else:
            num_entered = np.cumsum(np.bincount(first_copies, minlength=to_fill + count))[to_fill:]
        return Taken(payload, repeat, num_repeats, lag, num_entered, entered)

    def state_dict(self) -> dict[str, Any]:
        """The state of a continuation: the ids in the buffer and how often each was used. Integers and int64 arrays."""
        buffer = self._buffer if self._buffer is not None else np.empty(0, dtype=np.int64)
        pending = np.array([self._pending_row] if self._pending_copies else [], dtype=np.int64)
        live, where = np.unique(np.concatenate([buffer, pending]), return_inverse=True)
        by_entry = np.argsort(self._table.payload[live, 0])  # rows are an accident of history; entry order is not
        place = np.empty_like(by_entry)
        place[by_entry] = np.arange(len(live))
        where, live = place[where], live[by_entry]
        return {
            "num_entered": self._num_entered,
            "num_left": self._num_left,
            "filled": self._buffer is not None,
            "pending_copies": self._pending_copies,
            "buffer": where[: len(buffer)],
            "pending": where[len(buffer) :],
            "payload": self._table.payload[live],
            "num_uses": self._table.num_uses[live],
            "used": self._table.used[live],
            "last": self._table.last[live],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self._num_entered, self._num_left = state["num_entered"], state["num_left"]
        self._table = _Table(self._width, max(64, self._buffer_length, len(state["payload"])))
        rows = self._table.add(state["payload"], state["num_uses"])
        self._table.used[rows], self._table.last[rows] = state["used"], state["last"]
        self._pending_copies = state["pending_copies"]
        self._pending_row = int(rows[state["pending"][0]]) if self._pending_copies else 0
        self._buffer = rows[state["buffer"]] if state["filled"] else None
        self._next = None

    @property
    def _num_to_fill(self) -> int:
        return self._buffer_length if self._buffer is None else 0

    def _uses_entering(self, count: int) -> Ids:
        if self._next is None or self._next[0] != count:
            missing = self._num_to_fill + count - self._pending_copies
            uses = self._factor.enter(self._num_entered, missing) if missing > 0 else np.empty(0, dtype=np.int64)
            self._next = count, uses
        return self._next[1]

    def _push(self, rows: Ids, num_uses: Ids, count: int) -> tuple[Ids, Ids]:
        """Rows of the next ``count`` uses to go in, and where the first copy of each entering row is."""
        from_pending = min(count, self._pending_copies)
        head = np.full(from_pending, self._pending_row, dtype=np.int64)
        self._pending_copies -= from_pending
        if not len(rows):
            return head, np.empty(0, dtype=np.int64)
        self._num_entered += len(rows)
        missing = count - from_pending
        ends = np.cumsum(num_uses)
        copies = rows if ends[-1] == len(rows) else np.repeat(rows, num_uses)
        self._pending_copies = int(ends[-1]) - missing
        self._pending_row = int(rows[-1])
        incoming = np.concatenate([head, copies[:missing]]) if from_pending else copies[:missing]
        return incoming, from_pending + ends - num_uses

    def _exchange(self, incoming: Ids) -> Ids:
        """Rows that leave while ``incoming`` goes in, one for one.

        One sort does a block: what leaves at step k is what entered at the block's previous hit of the same slot, or
        what the slot held before the block.
        """
        buffer, count = self._buffer, len(incoming)
        assert buffer is not None and count <= MAX_BLOCK
        if not len(buffer):
            return incoming
        slots = self._slots.integers(len(buffer), np.arange(self._num_left, self._num_left + count))
        slots, steps, starts, ends = _grouped(slots)
        leaving = np.empty_like(incoming)
        leaving[steps[1:]] = incoming[steps[:-1]]
        leaving[steps[starts]] = buffer[slots[starts]]
        buffer[slots[ends]] = incoming[steps[ends]]
        return leaving


class _Table:
    """One row per live entry: what it is, how often it will be used, how often it was, and when last."""

    def __init__(self, width: int, capacity: int) -> None:
        self.payload = np.empty((capacity, width), dtype=np.int64)
        self.num_uses, self.used, self.last = (np.zeros(capacity, dtype=np.int64) for _ in range(3))
        self._free = np.arange(capacity)[::-1].copy()
        self._num_free = capacity

    def add(self, payload: Ids, num_uses: Ids) -> Ids:
        count = len(payload)
        if count > self._num_free:
            self._grow(count)
        rows = self._free[self._num_free - count : self._num_free].copy()
        self._num_free -= count
        self.payload[rows], self.num_uses[rows] = payload, num_uses
        return rows

    def use(self, rows: Ids, first_position: int) -> tuple[Ids, Ids, Ids]:
        """Number the uses ``rows`` as they leave, the first at ``first_position``: repeat, num_repeats, lag. A row is
        free after its last use; its payload stays until the next :meth:`add`."""
        num_uses = self.num_uses[rows]
        if (num_uses == 1).all():
            self._free_again(rows)
            zeros = np.zeros(len(rows), dtype=np.int64)
            return zeros, num_uses, zeros
        entries, steps, starts, ends = _grouped(rows)
        counts = np.diff(np.append(starts, len(rows)))
        rank = np.arange(len(rows)) - np.repeat(starts, counts)
        in_order = self.used[entries] + rank
        positions = first_position + steps
        previous = np.empty_like(positions)
        previous[1:] = positions[:-1]
        previous[starts] = self.last[entries[starts]]
        repeat, lag = np.empty_like(rows), np.empty_like(rows)
        repeat[steps] = in_order
        lag[steps] = np.where(in_order > 0, positions - previous, 0)
        self.used[entries[ends]] = in_order[ends] + 1
        self.last[entries[ends]] = positions[ends]
        gone = rows[repeat == num_uses - 1]
        self.used[gone] = self.last[gone] = 0  # a state must not show what the row held before
        self._free_again(gone)
        return repeat, num_uses, lag

    def _free_again(self, rows: Ids) -> None:
        self._free[self._num_free : self._num_free + len(rows)] = rows
        self._num_free += len(rows)

    def _grow(self, wanted: int) -> None:
        old = len(self.used)
        new = max(2 * old, old + wanted)
        self.payload = np.concatenate([self.payload, np.empty((new - old, self.payload.shape[1]), dtype=np.int64)])
        extra = np.zeros(new - old, dtype=np.int64)
        self.num_uses, self.used, self.last = (
            np.concatenate([column, extra]) for column in (self.num_uses, self.used, self.last)
        )
        free = np.empty(new, dtype=np.int64)
        free[: self._num_free] = self._free[: self._num_free]
        free[self._num_free : self._num_free + new - old] = np.arange(old, new)[::-1]
        self._free = free
        self._num_free += new - old


def _grouped(values: Ids) -> tuple[Ids, Ids, Ids, Ids]:
    """A stable sort by value: the values, the position each came from, and where groups start and end (inclusive)."""
    packed = np.sort((values << _POSITION_BITS) | np.arange(len(values)))
    values, positions = packed >> _POSITION_BITS, packed & (MAX_BLOCK - 1)
    changes = np.flatnonzero(values[1:] != values[:-1])
    starts, ends = np.append(0, changes + 1), np.append(changes, len(values) - 1)
    return values, positions, starts, ends
