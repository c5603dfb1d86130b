"""The answers of a plan: what it needs, what has entered, what is planned. A plan neither waits nor calls anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataecho.plan.batch import PlannedBatch
from dataecho.plan.order import Ids


@dataclass(frozen=True, slots=True)
class NeedsLength:
    """The plan cannot go on before it knows the number of examples in ``shard``."""

    shard: int


@dataclass(frozen=True, slots=True)
class Entered:
    """``items`` [n, 4] (columns :data:`ITEM_COLUMNS`), all of one shard, have entered the plan, in source order.
    ``is_wanted`` false: another rank uses them, and this one does not read them."""

    items: Ids
    is_wanted: bool = True


@dataclass(frozen=True, slots=True)
class Planned:
    """The next batches, in order."""

    batches: Sequence[PlannedBatch]


@dataclass(frozen=True, slots=True)
class Ended:
    """There is no other batch."""


Event = NeedsLength | Entered | Planned | Ended
