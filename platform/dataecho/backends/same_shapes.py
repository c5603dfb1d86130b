"""The check of weights from elsewhere that all backends share."""

from __future__ import annotations

from collections.abc import Mapping

from dataecho.errors import SettingError

Shapes = Mapping[str, tuple[int, ...]]


def require_same_shapes(given: Shapes, own: Shapes) -> None:
    """Raise :class:`SettingError` for the first name, in sorted order, that only one side has or whose shapes
    differ."""
    different = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if not different:
        return
    name = different[0]
    raise SettingError(
        f"weights {name}",
        f"shape {given[name]}" if name in given else "missing",
        allowed=f"shape {own[name]}" if name in own else "the names of this model's weights",
        cure="Load weights into the model that they were saved from.",
    )
