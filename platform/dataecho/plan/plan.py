"""The plan: an endless sequence of training batches, as ids. Tiny state, exact at every batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataecho.errors import require, require_same
from dataecho.plan.batch import PlannedBatch, PlannedBlock
from dataecho.plan.echo import MAX_BLOCK, Echo
from dataecho.plan.events import Entered, Event, NeedsLength, Planned
from dataecho.plan.factors import FactorHistory
from dataecho.plan.order import ITEM_COLUMNS, Ids, Order

_USES_PER_BLOCK = 8192
_NO_ITEMS: Ids = np.empty((0, len(ITEM_COLUMNS)), dtype=np.int64)
#: Where the factor may still change: a change cannot reach what is planned, but single batches cost ten times as much.
OPEN_BLOCK = 4


class Plan:
    """Training batches of one rank, endless; seeded, pure, and cheap to restore. It says what it needs, see
    :meth:`next_event`; ``lengths`` of shards may be shared with other cursors of the same plan, and grow meanwhile.

    ``echo_batches`` chooses the level: items are echoed before the one shuffle buffer (paper: example echo), or whole
    batches after it, through a buffer of ``batch_shuffle_buffer`` batches (0: copies side by side). ``shuffle_buffer``
    is a length in examples, 0 for none. ``factor``: any real number >= 1, or a history that may be shared with other
    cursors of the same plan, and only with these. ``deal_shards``: whether a rank's share is whole shards (see
    :class:`Order`); None: where items are not permuted. Raises :class:`SettingError` for what cannot be planned.
    """

    def __init__(
        self,
        lengths: Mapping[int, int],
        *,
        num_shards: int,
        seed: int,
        batch_size: int,
        shuffle_buffer: int,
        factor: float | FactorHistory = 1.0,
        echo_batches: bool = False,
        batch_shuffle_buffer: int = 0,
        shuffle_items: bool = True,
        deal_shards: bool | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        require(seed >= 0, "seed", seed, allowed="whole numbers >= 0", cure="0 is a seed like any other.")
        require(batch_size >= 1, "batch_size", batch_size, allowed=">= 1", cure="Choose how many rows a step trains.")
        require(
            batch_size <= MAX_BLOCK,
            "batch_size",
            batch_size,
            allowed=f"<= {MAX_BLOCK}",
            cure="Split it over several ranks.",
        )
        require(
            shuffle_buffer == 0 or batch_size <= shuffle_buffer,
            "batch_size",
            batch_size,
            allowed=f"at most the shuffle buffer, {shuffle_buffer} examples",
            cure="Use a larger shuffle_buffer, a smaller batch_size, or shuffle_buffer=0 for no shuffling at all.",
        )
        require(
            batch_shuffle_buffer == 0 or (echo_batches and batch_shuffle_buffer > 0),
            "echo.shuffle_buffer",
            batch_shuffle_buffer,
            allowed="0, or with batch echo a number of batches >= 1",
            cure="Example echo has the one shuffle_buffer of the task.",
        )
        deal_shards = not shuffle_items if deal_shards is None else deal_shards
        self._factors = FactorHistory.of(factor)
        self._identity: dict[str, Any] = {
            "seed": seed,
            "batch_size": batch_size,
            "shuffle_buffer": shuffle_buffer,
            "factor": self._factors.identity,
            "echo_batches": echo_batches,
            "echo.shuffle_buffer": batch_shuffle_buffer,
            "shuffle_items": shuffle_items,
            "deal_shards": deal_shards,
            "num_shards": num_shards,
            "rank": rank,
            "num_ranks": num_ranks,
        }
        self._batch_size = batch_size
        self._order = Order(
            lengths,
            num_shards=num_shards,
            seed=seed,
            shuffle_items=shuffle_items,
            deal_shards=deal_shards,
            rank=rank,
            num_ranks=num_ranks,
        )
        self._items = Echo(
            width=len(ITEM_COLUMNS),
            factors=FactorHistory.constant(1.0) if echo_batches else self._factors,
            buffer_length=shuffle_buffer,
            seed=seed,
            level="items",
        )
        self._num_batches = 0
        self._last_epoch = 0  # of the item that was planned last
        self._waiting: list[Ids] = []  # items that have entered, for the next batches
        self._num_waiting = 0
        self._level: _ItemLevel | _BatchLevel = (
            _BatchLevel(self._items, batch_size, self._factors, batch_shuffle_buffer, seed)
            if echo_batches
            else _ItemLevel(self._items, batch_size)
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the sequence depends on except the data: a state fits only a plan of the same identity."""
        return dict(self._identity)

    @property
    def num_batches(self) -> int:
        """Batches taken so far."""
        return self._num_batches

    def shards_ahead(self) -> Iterator[tuple[int, int, int]]:
        """The shards in the order in which the plan will reach them; see :meth:`Order.shards_ahead`."""
        return self._order.shards_ahead()

    @property
    def block_length(self) -> int:
        """Batches that are best planned together; :data:`OPEN_BLOCK` at most where the factor may still change."""
        length = max(1, _USES_PER_BLOCK // self._batch_size)
        return min(length, OPEN_BLOCK) if self._factors.is_open else length

    def next_event(self, num_batches: int = 1) -> Event:
        """The next step towards the ``num_batches`` batches that follow: :class:`NeedsLength` until ``lengths`` has
        that shard; :class:`Entered` for the items they are the first to need; :class:`Planned` once all have entered.
        Any split into numbers gives the same batches. Raises :class:`SettingError` if an epoch has no item."""
        num_batches = min(num_batches, max(1, MAX_BLOCK // self._batch_size))
        num_wanted = self._level.num_entering(num_batches)
        if self._num_waiting < num_wanted:
            shard = self._order.needed_length()
            if shard is not None:
                return NeedsLength(shard)
            items = self._order.take(num_wanted - self._num_waiting)
            self._waiting.append(items)
            self._num_waiting += len(items)
            return Entered(items)
        return Planned(self._block(num_batches, self._items_for(num_wanted)).batches())

    def take(self, count: int) -> list[PlannedBatch]:
        """The next ``count`` batches, where all lengths are known. Raises ``LookupError`` where one is not."""
        batches: list[PlannedBatch] = []
        while len(batches) < count:
            event = self.next_event(count - len(batches))
            if isinstance(event, NeedsLength):
                raise LookupError(f"the length of shard {event.shard} is not known")
            if isinstance(event, Planned):
                batches += event.batches
        return batches

    def advance(self, count: int) -> None:
        """Move ``count`` batches on without building them; as :meth:`take`."""
        while count > 0:
            here = min(count, max(1, MAX_BLOCK // self._batch_size))
            num_wanted = self._level.num_entering(here)
            while self._num_waiting < num_wanted:
                event = self.next_event(here)
                if isinstance(event, NeedsLength):
                    raise LookupError(f"the length of shard {event.shard} is not known")
            items = self._items_for(num_wanted)
            self._level.take(here, items)
            self._note(here, items)
            count -= here

    def state_dict(self) -> dict[str, Any]:
        """Position and live ids: integers and int64 arrays, no generator state, no data."""
        assert not self._num_waiting, "a state is taken between batches"
        return {
            "identity": self.identity,
            "num_batches": self._num_batches,
            "order": self._order.state_dict(),
            "items": self._items.state_dict(),
            "factors": self._factors.state_dict(),
            **self._level.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken; refuses a state of another plan and names both values."""
        theirs = {key: state["identity"].get(key) for key in self._identity}
        require_same(self._identity, theirs, cure="Resume with the same settings, or start a new run.")
        self._num_batches = state["num_batches"]
        self._order.load_state_dict(state["order"])
        self._last_epoch = self._order.epoch
        self._waiting, self._num_waiting = [], 0
        self._items.load_state_dict(state["items"])
        self._level.load_state_dict(state)
        self._factors.load_state_dict(state["factors"], num_settled=self._level.num_entered)

    @staticmethod
    def shard_of(state: dict[str, Any]) -> int:
        """The shard in the middle of which ``state`` was taken."""
        identity, order = state["identity"], state["order"]
        plan = Order({}, num_shards=identity["num_shards"], seed=identity["seed"], shuffle_items=False)
        return plan.shard_at(order["epoch"], order["shard_position"])

    def _items_for(self, count: int) -> Ids:
        items = self._waiting[0] if len(self._waiting) == 1 else np.concatenate([_NO_ITEMS, *self._waiting])
        self._num_waiting -= count
        self._waiting = [items[count:]] if self._num_waiting else []
        return items[:count]

    def _note(self, num_batches: int, items: Ids) -> None:
        self._num_batches += num_batches
        if len(items):
            self._last_epoch = int(items[-1, 1])

    def _block(self, count: int, items: Ids) -> PlannedBlock:
        last_epoch = self._last_epoch
        cut = self._level.take(count, items)
        first = self._num_batches
        self._note(count, items)
        ordinal, epoch, shard, k = np.ascontiguousarray(cut.uses.transpose(2, 0, 1))
        if cut.may_have_repeats:
            num_fresh = (cut.repeat == 0).sum(axis=1).tolist()
            total_lag = (cut.lag.sum(axis=1) / (self._batch_size if cut.batch_ordinal is None else 1)).tolist()
        else:
            num_fresh, total_lag = [self._batch_size] * count, [0.0] * count
        num_duplicates = [0] * count
        if cut.batch_ordinal is None and cut.may_have_repeats:
            num_duplicates = (np.diff(np.sort(ordinal, axis=1), axis=1) == 0).sum(axis=1).tolist()
        if cut.batch_ordinal is None:
            ordinals, batch_repeats, num_batch_repeats = range(first, first + count), [0] * count, [1] * count
        else:
            ordinals = cut.batch_ordinal.tolist()
            batch_repeats, num_batch_repeats = cut.repeat[:, 0].tolist(), cut.num_repeats[:, 0].tolist()
        # Where nothing entered for a batch, the last epoch is that of whatever entered before.
        epochs = np.append(last_epoch, cut.entered[:, 1])
        return PlannedBlock(
            ordinal=ordinal,
            epoch=epoch,
            shard=shard,
            k=k,
            repeat=cut.repeat,
            num_repeats=cut.num_repeats,
            lag=cut.lag,
            batch_ordinal=ordinals,
            batch_repeat=batch_repeats,
            num_batch_repeats=num_batch_repeats,
            num_valid=self._batch_size,
            entered=cut.entered,
            entered_through=[0, *cut.entered_through.tolist()],
            entered_before=cut.entered_before,
            epochs_entered=(epochs[cut.entered_through] + 1).tolist(),
            num_fresh=num_fresh,
            num_duplicates=num_duplicates,
            total_lag=total_lag,
        )


@dataclass(frozen=True)
class _Cut:
    """``m`` batches of ``b`` uses: ``uses`` [m, b, 4]; ``repeat``, ``num_repeats``, ``lag`` [m, b];
    ``entered_through`` [m] indexes ``entered`` [n, 4]."""

    uses: Ids
    repeat: Ids
    num_repeats: Ids
    lag: Ids
    batch_ordinal: Ids | None
    entered: Ids
    entered_through: Ids
    entered_before: int
    may_have_repeats: bool


class _ItemLevel:
    """Batches are cut from the stream of item uses."""

    def __init__(self, items: Echo, batch_size: int) -> None:
        self._items, self._batch_size = items, batch_size

    def num_entering(self, count: int) -> int:
        """Items that enter for the next ``count`` batches."""
        return self._items.num_entering(count * self._batch_size)

    def take(self, count: int, items: Ids) -> _Cut:
        """The next ``count`` batches; ``items``: all that enter for them."""
        size = self._batch_size
        before = self._items.num_entered
        taken = self._items.take(count * size, items)
        shape = (count, size)
        return _Cut(
            taken.payload.reshape(count, size, -1),
            taken.repeat.reshape(shape),
            taken.num_repeats.reshape(shape),
            taken.lag.reshape(shape),
            None,
            taken.entered,
            taken.num_entered[size - 1 :: size],
            before,
            bool((taken.num_repeats > 1).any()),
        )

    @property
    def num_entered(self) -> int:
        """Entries of the echo so far: items."""
        return self._items.num_entered

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _BatchLevel:
    """Batches of once-used items are the entries of a second echo."""

    def __init__(self, items: Echo, batch_size: int, factors: FactorHistory, buffer_length: int, seed: int) -> None:
        self._inner = _ItemLevel(items, batch_size)
        self._items, self._batch_size = items, batch_size
        self._num_cut = 0
        self._cut: list[_Cut] = []
        width = 1 + batch_size * len(ITEM_COLUMNS)
        self._batches = Echo(width=width, factors=factors, buffer_length=buffer_length, seed=seed, level="batches")

    def num_entering(self, count: int) -> int:
        """Items that enter for the next ``count`` batches."""
        return self._items.num_entering(self._batches.num_entering(count) * self._batch_size)

    def take(self, count: int, items: Ids) -> _Cut:
        """The next ``count`` batches; ``items``: all that enter for them."""
        before = self._items.num_entered
        self._cut = []
        taken = self._batches.take(count, self._enter(self._batches.num_entering(count), items))
        shape = (count, self._batch_size)
        entered, offsets = [np.empty((0, len(ITEM_COLUMNS)), dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
        for block in self._cut:
            offsets.append(offsets[-1][-1] + block.entered_through)
            entered.append(block.entered)
        return _Cut(
            taken.payload[:, 1:].reshape(*shape, -1),
            np.broadcast_to(taken.repeat[:, None], shape),
            np.broadcast_to(taken.num_repeats[:, None], shape),
            np.broadcast_to(taken.lag[:, None], shape),
            taken.payload[:, 0],
            np.concatenate(entered),
            np.concatenate(offsets)[taken.num_entered],
            before,
            True,
        )

    @property
    def num_entered(self) -> int:
        """Entries of the echo so far: batches."""
        return self._batches.num_entered

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches.state_dict(), "num_cut": self._num_cut}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches.load_state_dict(state["batches"])
        self._num_cut = state["num_cut"]

    def _enter(self, count: int, items: Ids) -> Ids:
        """Batches made of ``items``, as entries of the second echo."""
        most = max(1, MAX_BLOCK // self._batch_size)
        rows = [np.empty((0, 1 + self._batch_size * len(ITEM_COLUMNS)), dtype=np.int64)]
        while count:
            here = min(most, count)
            num_items = self._inner.num_entering(here)
            block = self._inner.take(here, items[:num_items])
            items = items[num_items:]
            self._cut.append(block)
            numbers = np.arange(self._num_cut, self._num_cut + here)[:, None]
            rows.append(np.concatenate([numbers, block.uses.reshape(here, -1)], axis=1))
            self._num_cut += here
            count -= here
        return np.concatenate(rows)
