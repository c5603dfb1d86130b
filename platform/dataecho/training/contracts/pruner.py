"""The contract of a pruner: it ends runs that are not worth going on with."""

from __future__ import annotations

import abc
from typing import final


class Pruner(abc.ABC):
    """Ends a run that is not worth going on with. It is called on the first rank, at every mark but the last."""

    @abc.abstractmethod
    def should_prune(self, *, fresh_examples: int, value: float, higher_is_better: bool) -> bool:
        """Whether to end the run, after a checkpoint. ``value``: the metric at the mark ``fresh_examples``, on a grid
        that is the same for all runs of a task. A resumed run may ask about the same mark again. Never raises for, or
        waits long for, another program."""


@final
class NoPruner(Pruner):
    """Ends no run."""

    def should_prune(self, *, fresh_examples: int, value: float, higher_is_better: bool) -> bool:
        return False
