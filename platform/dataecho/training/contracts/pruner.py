"""The contract of a pruner: it ends runs that are not worth going on with."""

from __future__ import annotations

import abc
from typing import final


class Pruner(abc.ABC):
    """Ends a run that is not worth going on: it is asked at every mark but the last, on the first rank."""

    @abc.abstractmethod
    def should_prune(self, *, fresh_examples: int, value: float, higher_is_better: bool) -> bool:
        """Take the metric's ``value`` at the mark ``fresh_examples`` (on the grid of evaluations, the same for all runs
        of a task); True ends the run after a checkpoint. A resumed run may ask again about a mark that it had asked
        about before. Never raises for, or waits long for, whatever it asks."""


@final
class NoPruner(Pruner):
    """Lets every run go on."""

    def should_prune(self, *, fresh_examples: int, value: float, higher_is_better: bool) -> bool:
        return False
