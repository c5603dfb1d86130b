"""Planned batches, as ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataecho.plan.order import Ids


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
