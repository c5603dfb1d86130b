"""Checks of a Transformer's sizes, the same for every framework."""

from __future__ import annotations

from dataecho.errors import require

#: Among so many of the likeliest tokens a continuation is drawn (Fan et al., ACL 2018).
NUM_CANDIDATES = 10


def require_sizes(backend: str, *, width: int, num_layers: int, num_heads: int, hidden: int, dropout: float) -> None:
    """Raise :class:`SettingError` for the first that cannot be, by its key."""
    key = f"task.models.{backend}"
    for name, value in (("width", width), ("num_layers", num_layers), ("num_heads", num_heads), ("hidden", hidden)):
        require(value >= 1, f"{key}.{name}", value, allowed="whole numbers >= 1", cure=f"Set {key}.{name}.")
    require(
        width % num_heads == 0,
        f"{key}.num_heads",
        num_heads,
        allowed=f"divisors of {key}.width={width}",
        cure="Every head gets as many of the numbers.",
    )
    require(0 <= dropout < 1, f"{key}.dropout", dropout, allowed="shares in [0, 1)", cure="0.1 is usual, 0 is none.")
