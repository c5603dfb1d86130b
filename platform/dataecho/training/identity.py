"""The identity of a run, with which a checkpoint must agree: the settings that change results, and the data.

Digests identify the data, wherever they lie: that of the training source is in the feed's state, that of the held-out
source is here. Each source documents which changes its digest covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dataecho.errors import require_same
from dataecho.masking import masked_nested
from dataecho.moved import current_name

#: Settings of the parts of a task, mostly of its sources, that locate data or tune their transfer.
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
#: Settings that may differ where a checkpoint is evaluated: its weights do not depend on them, or only the past did.
_OF_EVALUATION = (
    "accelerator",
    "backend",
    "budget",
    "task.budget",
    "task.eval",
    "task.eval_batch_size",
    "task.eval_interval",
    "task.target",
)
_HELD_OUT = "task.eval (digest of its data)"
_WEIGHTS = "weights (digest of their file)"


def identity_of(settings: Mapping[str, Any], *, held_out: str, weights: str | None = None) -> dict[str, Any]:
    """The identity of a run with these ``settings``, by their dotted names, and a held-out source of this digest. It
    holds no locations and no secrets. ``weights``: the digest of the weights that the run started from."""
    return {**_portable(settings), _HELD_OUT: held_out, _WEIGHTS: weights}


def portable_state(state: dict[str, Any], *, held_out: str, weights: str | None = None) -> dict[str, Any]:
    """A checkpoint's ``state``, perhaps of an older version, with an identity in the form of :func:`identity_of`:
    without locations, and with the present held-out source and weights where it names none. An older one that started
    from weights knows only where they were: it is told apart from one without."""
    identity = state["identity"]
    was = identity.get("weights")
    unnamed = {_HELD_OUT: held_out, _WEIGHTS: None if was is None else weights or str(was)}
    return {**state, "identity": {**unnamed, **_portable(identity)}}


def with_longer_budget(state: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's ``state``, which agrees with the budget in ``settings`` where that is of the same unit and not
    smaller: the continued run spends more. Neither is changed otherwise."""
    identity = dict(state["identity"])
    for name in ("budget.fresh", "budget.steps", "budget.seconds"):
        was, now = identity.get(name), settings.get(name)
        if was is not None and now is not None and now > was:
            identity[name] = now
    return {**state, "identity": identity}


def require_same_model(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise :class:`SettingError` unless the model that ``settings`` name for the checkpoint's backend is the
    checkpoint's."""
    _require_same(state, settings, only=(f"task.models.{backend_of(state)}",))


def require_same_run(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise :class:`SettingError` where ``settings`` differ from those of the checkpoint in anything but how, where and
    on what it is evaluated."""
    _require_same(state, settings, but=_OF_EVALUATION)


def _require_same(
    state: Mapping[str, Any], settings: Mapping[str, Any], *, only: Iterable[str] = (), but: Iterable[str] = ()
) -> None:
    mine, theirs = _portable(settings), _portable(state["identity"])
    names = [name for name in theirs if name in mine]
    if only:
        names = [name for name in names if _is_below(name, only)]
    names = [name for name in names if not _is_below(name, but)]
    require_same(
        {name: mine[name] for name in names},
        {name: theirs[name] for name in names},
        cure="A checkpoint is evaluated with the settings of its run: leave this one out.",
    )


def _is_below(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def backend_of(state: Mapping[str, Any]) -> str:
    """The name of the backend that trained a checkpoint."""
    return str(state["identity"]["backend.name"])


def weights_of(state: dict[str, Any]) -> str | None:
    """The digest of the weights that a checkpoint's run started from, or their path in an older version; None
    without."""
    identity = state["identity"]
    found: str | None = identity.get(_WEIGHTS, identity.get("weights"))
    return found


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: masked_nested(value, name=name) for name, value in settings.items() if not _is_place(name)}
    for name, value in kept.items():
        if name.endswith("._target_") and isinstance(value, str):
            kept[name] = current_name(value)
    if isinstance(kept.get("factor"), str) and kept["factor"] != "auto":
        kept["factor"] = "a recorded history"  # its digest is in the identity of the feed
    return kept


def _is_place(name: str) -> bool:
    if name == "weights":
        return True
    group, *parts = name.split(".")
    # A task's direct settings and those of its models change results; its other parts are sources and their readers.
    return group == "task" and len(parts) > 1 and parts[0] != "models" and not PLACES.isdisjoint(parts[1:])
