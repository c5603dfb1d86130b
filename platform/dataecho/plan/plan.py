"""The plan: an endless sequence of training batches, as ids. Tiny state, exact at every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataecho.errors import SettingError, require, shown
from dataecho.plan.echo import MAX_BLOCK, Echo
from dataecho.plan.factors import FactorHistory
from dataecho.plan.order import ITEM_COLUMNS, Ids, Order

_USES_PER_BLOCK = 8192
#: Where the factor may still change: a change cannot reach what is planned, but single batches cost ten times as much.
OPEN_BLOCK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBlock:
    """``m`` batches of ``b`` rows that were planned together; not to be changed.

    Of what :class:`PlannedBatch` has, ``ordinal`` to ``lag`` are arrays [m, b] here, the rest has length m;
    ``num_valid`` is that of every batch. ``entered`` [n, 4]: rows ``entered_through[i]`` to ``entered_through[i + 1]``
    are batch i's. ``entered_before``: items that had entered before the block.
    """

    ordinal: Ids
    epoch: Ids
    shard: Ids
    k: Ids
    repeat: Ids
    num_repeats: Ids
    lag: Ids
    batch_ordinal: Sequence[int]
    batch_repeat: Sequence[int]
    num_batch_repeats: Sequence[int]
    num_valid: int
    entered: Ids
    entered_through: Sequence[int]
    entered_before: int
    epochs_entered: Sequence[int]
    num_fresh: Sequence[int]
    num_duplicates: Sequence[int]
    total_lag: Sequence[float]

    def __len__(self) -> int:
        return len(self.ordinal)

    def batches(self) -> list[PlannedBatch]:
        """One by one."""
        return [PlannedBatch(self, row) for row in range(len(self))]


class PlannedBatch:
    """One batch of the plan, ``b`` rows; not to be changed. It is row ``row`` of ``block``, looked up when asked for:
    to cut all of it out beforehand took a fifth of the time of planning a small batch."""

    __slots__ = ("block", "row")

    def __init__(self, block: PlannedBlock, row: int) -> None:
        self.block, self.row = block, row

    def __len__(self) -> int:
        return self.block.ordinal.shape[1]

    @property
    def ordinal(self) -> Ids:
        """[b], the entry ordinal of the item of every row: names an item uniquely across epochs."""
        return self.block.ordinal[self.row]

    @property
    def epoch(self) -> Ids:
        """[b], the item's epoch."""
        return self.block.epoch[self.row]

    @property
    def shard(self) -> Ids:
        """[b], the item's shard."""
        return self.block.shard[self.row]

    @property
    def k(self) -> Ids:
        """[b], the item's position in its shard."""
        return self.block.k[self.row]

    @property
    def repeat(self) -> Ids:
        """[b], how often the item was used before; 0 for a fresh example."""
        return self.block.repeat[self.row]

    @property
    def num_repeats(self) -> Ids:
        """[b], how often the item will be used in all."""
        return self.block.num_repeats[self.row]

    @property
    def lag(self) -> Ids:
        """[b], uses since the item's previous use (0 for its first), or batches under batch echo."""
        return self.block.lag[self.row]

    @property
    def batch_ordinal(self) -> int:
        """The number of the batch, the same for all repeats of it."""
        return self.block.batch_ordinal[self.row]

    @property
    def batch_repeat(self) -> int:
        """How often the batch was used before; 0 unless batches are echoed."""
        return self.block.batch_repeat[self.row]

    @property
    def num_batch_repeats(self) -> int:
        """How often the batch will be used in all; 1 unless batches are echoed."""
        return self.block.num_batch_repeats[self.row]

    @property
    def num_valid(self) -> int:
        """Rows from here on are padding of weight 0."""
        return self.block.num_valid

    @property
    def entered(self) -> Ids:
        """[n, 4], items that enter before this batch leaves; columns as in ``ITEM_COLUMNS``."""
        block, row = self.block, self.row
        return block.entered[block.entered_through[row] : block.entered_through[row + 1]]

    @property
    def num_entered(self) -> int:
        """All items so far, this batch's included."""
        return self.block.entered_before + self.block.entered_through[self.row + 1]

    @property
    def epochs_entered(self) -> int:
        """Epochs of which an item has entered so far."""
        return self.block.epochs_entered[self.row]

    @property
    def num_fresh(self) -> int:
        """Rows whose repeat is 0."""
        return self.block.num_fresh[self.row]

    @property
    def num_duplicates(self) -> int:
        """Rows whose item the batch already has."""
        return self.block.num_duplicates[self.row]

    @property
    def total_lag(self) -> float:
        """The sum of ``lag`` in steps."""
        return self.block.total_lag[self.row]


class Plan:
    """Training batches of one rank, endless; seeded, pure, and cheap to restore.

    ``echo_batches`` chooses the level: items are echoed before the one shuffle buffer (paper: example echo), or whole
    batches after it, through a buffer of ``batch_shuffle_buffer`` batches (0: copies side by side). ``shuffle_buffer``
    is a length in examples, 0 for none. ``factor``: any real number >= 1, or a history that may be shared with other
    cursors of the same plan, and only with these. ``deal_shards``: whether a rank's share is whole shards (see
    :class:`Order`); None: where items are not permuted. Raises :class:`SettingError` for what cannot be planned.
    """

    def __init__(
        self,
        num_examples: Callable[[int], int],
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
        on_enter: Callable[[Ids], None] = lambda items: None,
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
            num_examples,
            num_shards=num_shards,
            seed=seed,
            shuffle_items=shuffle_items,
            deal_shards=deal_shards,
            rank=rank,
            num_ranks=num_ranks,
            on_enter=on_enter,
        )
        self._items = Echo(
            self._order.take,
            width=len(ITEM_COLUMNS),
            factors=FactorHistory.constant(1.0) if echo_batches else self._factors,
            buffer_length=shuffle_buffer,
            seed=seed,
            level="items",
        )
        self._num_batches = 0
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

    def batches(self, *, in_blocks: bool = True) -> Iterator[PlannedBatch]:
        """The batches that follow, without end. Planned in blocks: afterwards this plan's state is ahead, by
        :data:`OPEN_BLOCK` batches at most where the factor may still change. ``in_blocks`` false plans one by one,
        where a length must not be asked for before it is needed."""
        per_block = max(1, _USES_PER_BLOCK // self._batch_size)
        if self._factors.is_open:
            per_block = min(per_block, OPEN_BLOCK)
        if not in_blocks:
            per_block = 1
        while True:
            yield from self.take(per_block)

    def take(self, count: int) -> list[PlannedBatch]:
        """The next ``count`` batches; any split into calls gives the same sequence."""
        most = max(1, MAX_BLOCK // self._batch_size)
        batches: list[PlannedBatch] = []
        while len(batches) < count:
            batches += self._block(min(most, count - len(batches))).batches()
        return batches

    def advance(self, count: int) -> None:
        """Move ``count`` batches on without building them."""
        most = max(1, MAX_BLOCK // self._batch_size)
        while count > 0:
            here = min(most, count)
            self._level.take(here)
            self._num_batches += here
            count -= here

    def state(self) -> dict[str, Any]:
        """Position and live ids: integers and int64 arrays, no generator state, no data."""
        return {
            "identity": self.identity,
            "num_batches": self._num_batches,
            "order": self._order.state(),
            "items": self._items.state(),
            "factors": self._factors.state(),
            **self._level.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken; refuses a state of another plan and names both values."""
        for key, mine in self._identity.items():
            theirs = state["identity"].get(key)
            if theirs != mine:
                raise SettingError(
                    key,
                    mine,
                    allowed=f"{shown(theirs)}, the value the checkpoint was written with",
                    cure="Resume with the same settings, or start a new run.",
                )
        self._num_batches = state["num_batches"]
        self._order.load_state(state["order"])
        self._items.load_state(state["items"])
        self._level.load_state(state)
        self._factors.load_state(state["factors"], num_settled=self._level.num_entered)

    def _block(self, count: int) -> PlannedBlock:
        last_epoch = self._order.epoch
        cut = self._level.take(count)
        first = self._num_batches
        self._num_batches += count
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

    def take(self, count: int) -> _Cut:
        size = self._batch_size
        before = self._items.num_entered
        taken = self._items.take(count * size)
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

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


class _BatchLevel:
    """Batches of once-used items are the entries of a second echo."""

    def __init__(self, items: Echo, batch_size: int, factors: FactorHistory, buffer_length: int, seed: int) -> None:
        self._inner = _ItemLevel(items, batch_size)
        self._items, self._batch_size = items, batch_size
        self._num_cut = 0
        self._cut: list[_Cut] = []
        width = 1 + batch_size * len(ITEM_COLUMNS)
        self._batches = Echo(
            self._enter, width=width, factors=factors, buffer_length=buffer_length, seed=seed, level="batches"
        )

    def take(self, count: int) -> _Cut:
        before = self._items.num_entered
        self._cut = []
        taken = self._batches.take(count)
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

    def state(self) -> dict[str, Any]:
        return {"batches": self._batches.state(), "num_cut": self._num_cut}

    def load_state(self, state: dict[str, Any]) -> None:
        self._batches.load_state(state["batches"])
        self._num_cut = state["num_cut"]

    def _enter(self, count: int) -> Ids:
        most = max(1, MAX_BLOCK // self._batch_size)
        rows = []
        while count:
            here = min(most, count)
            block = self._inner.take(here)
            self._cut.append(block)
            rows.append(
                np.concatenate(
                    [np.arange(self._num_cut, self._num_cut + here)[:, None], block.uses.reshape(here, -1)], axis=1
                )
            )
            self._num_cut += here
            count -= here
        return np.concatenate(rows)
