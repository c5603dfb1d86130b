"""The protocol of parts that a checkpoint consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Stateful(Protocol):
    """A part of a run with a state of its own. The states of all parts share one dictionary: their keys differ."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values, and arrays, by name."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue where :meth:`state_dict` was taken. ``state`` holds the keys of other parts, too."""
