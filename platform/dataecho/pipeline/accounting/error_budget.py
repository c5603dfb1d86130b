"""How many examples may fail before that is an error."""

from __future__ import annotations

from collections.abc import Sequence

from dataecho.pipeline.batch import Skipped
from dataecho.pipeline.stage import ExampleError

_FIRST = 1000  # examples that a share is taken of at least: one broken file among the first ten is no tenth of the data


class ErrorBudget:
    """At most ``share`` of all items met, and of the first thousand, may fail; 0 for none."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._num_met = self._num_skipped = 0

    def met(self, num_items: int, skipped: Sequence[Skipped]) -> None:
        """``num_items`` were to be used for the first time, ``skipped`` of them could not. Raises
        :class:`ExampleError` for the first that is too many."""
        self._num_met += num_items
        if not skipped:
            return
        self._num_skipped += len(skipped)
        if self._num_skipped <= self._share * max(self._num_met, _FIRST):
            return
        last = skipped[-1]
        if self._share == 0:
            reason = last.reason + ". (pipeline.max_skipped_share, now 0, would leave out such examples.)"
        else:
            reason = (
                f"{last.reason}. {self._num_skipped} of {self._num_met} examples have failed: more than "
                f"pipeline.max_skipped_share={self._share} of them, or of the first {_FIRST}."
            )
        raise ExampleError(last.stage, last.name, reason)
