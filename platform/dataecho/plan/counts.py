"""Exact counts of what has been trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Counts:
    """An item is (epoch, index) and counts anew in every epoch.

    ``fresh_examples``: items whose first use has been trained; ``entered_examples``: items that have entered the plan
    (the paper's cost where a buffer must be filled first); ``read_examples``: reads done, with look-ahead and re-reads;
    ``skipped_examples``: items that failed, once each, never fresh; ``delivered_examples``: rows of weight 1 trained,
    repeats included; ``steps``; ``epochs_entered``.
    """

    fresh_examples: int = 0
    entered_examples: int = 0
    read_examples: int = 0
    skipped_examples: int = 0
    delivered_examples: int = 0
    steps: int = 0
    epochs_entered: int = 0

    def add(
        self, *, num_fresh: int, num_delivered: int, num_skipped: int, num_entered: int, epochs_entered: int
    ) -> None:
        """A step has been trained: ``num_delivered`` of its rows had weight 1, ``num_fresh`` of these were the first
        use of their item, and ``num_skipped`` items failed at their first use. ``num_entered`` items have entered the
        plan so far, in ``epochs_entered`` epochs."""
        self.fresh_examples += num_fresh
        self.skipped_examples += num_skipped
        self.entered_examples = num_entered
        self.delivered_examples += num_delivered
        self.steps += 1
        self.epochs_entered = epochs_entered

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)
