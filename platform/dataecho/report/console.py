"""Where people read: text is printed as it is, so that a path with brackets or colons is the path."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def new_console(*, stderr: bool = False) -> Console:
    """A console that takes no markup out of what it is given: neither ``[red]`` nor ``:smile:``."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def styled(style: str, text: str, rest: str = "") -> Text:
    """``text`` in a style of rich's, and ``rest`` in none."""
    return Text.assemble((text, style), rest)
