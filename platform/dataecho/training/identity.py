"""What a checkpoint must agree with: the settings that change what is computed, and the data; never where they lie.

The data are named by the digests of the sources: that of the training source is in the feed's state, that of the
held-out source is here. What a digest knows of the data, every source says itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataecho.masking import masked_nested
from dataecho.moved import current_name

#: Settings of the parts of a task (its sources, above all) that say where data lie and how they are brought here.
PLACES = frozenset(
    {
        "annotations",
        "cache_dir",
        "data_dir",
        "first_delay",
        "folder",
        "images",
        "index_dir",
        "labels",
        "manifest",
        "max_local_bytes",
        "num_fetches",
        "num_readers",
        "num_retries",
        "path",
        "root",
        "storage_options",
        "timeout",
        "url",
        "urls",
    }
)
_HELD_OUT = "task.eval (digest of its data)"


def identity_of(settings: Mapping[str, Any], *, held_out: str) -> dict[str, Any]:
    """The identity of a run with these ``settings``, by their dotted names, and a held-out source of this digest. No
    place is in it, and no secret."""
    return {**_portable(settings), _HELD_OUT: held_out}


def portable_state(state: dict[str, Any], *, held_out: str) -> dict[str, Any]:
    """A checkpoint's ``state``, which may be that of an older version, with its identity as :func:`identity_of` has it:
    places that it names are left out, and a held-out source that it does not name is the one that is here."""
    return {**state, "identity": {_HELD_OUT: held_out, **_portable(state["identity"])}}


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: masked_nested(value, name=name) for name, value in settings.items() if not _is_place(name)}
    for name, value in kept.items():
        if name.endswith("._target_") and isinstance(value, str):
            kept[name] = current_name(value)
    if isinstance(kept.get("factor"), str) and kept["factor"] != "auto":
        kept["factor"] = "a recorded history"  # wherever it lies: its digest is in the identity of the feed
    return kept


def _is_place(name: str) -> bool:
    group, *parts = name.split(".")
    # A task's own settings are facts, and so are its models'; its other parts are sources, and what they read with.
    return group == "task" and len(parts) > 1 and parts[0] != "models" and not PLACES.isdisjoint(parts[1:])
