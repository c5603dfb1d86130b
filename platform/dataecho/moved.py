"""Where classes and functions have moved to, so that old command lines, checkpoints and run folders are understood.

Another package declares its own moves: an entry point of the group ``dataecho.moved`` names a dictionary of them.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

_MOVED = {
    "dataecho.report.display.NoDisplay": "dataecho.training.contracts.NoDisplay",
    "dataecho.tracking.no_tracker": "dataecho.training.contracts",
}


def current_name(dotted: str) -> str:
    """The dotted name under which ``dotted`` is found today: itself, unless it or a module above it has moved."""
    moved, parts = _all_moved(), dotted.split(".")
    for length in range(len(parts), 0, -1):
        if (new := moved.get(".".join(parts[:length]))) is not None:
            return ".".join([new, *parts[length:]])
    return dotted


@cache
def _all_moved() -> dict[str, str]:
    moved = dict(_MOVED)
    for entry in entry_points(group="dataecho.moved"):
        moved |= entry.load()
    return moved
