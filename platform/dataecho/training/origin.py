"""Where a run begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataecho.errors import SettingError, require_same
from dataecho.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The ``state`` of a checkpoint, or None for a new run. ``identity``: everything that the checkpoint must agree
    with."""

    identity: dict[str, Any]
    state: dict[str, Any] | None = None

    def check(self, ranks: Ranks) -> None:
        """Raise :class:`SettingError` for a checkpoint of another run, or of another number of ranks."""
        if self.state is None:
            return
        cure = "Resume with the settings the run was started with, or start a new run."
        require_same(self.identity, self.state["identity"], cure=cure)
        num_ranks = len(self.state["ranks"])
        if num_ranks != ranks.num_ranks:
            raise SettingError(
                "num_ranks",
                ranks.num_ranks,
                allowed=f"{num_ranks}, the number of processes that the checkpoint was written by",
                cure="Start as many, or export the weights (mode=export) and start a new run from them (weights=...).",
            )
