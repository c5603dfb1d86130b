"""Consoles that print text literally, also paths with brackets or colons."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def new_console(*, stderr: bool = False) -> Console:
    """A console without markup: neither ``[red]`` nor ``:smile:`` is special."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def styled(style: str, text: str, rest: str = "") -> Text:
    """``text`` in a style of rich, and ``rest`` without style."""
    return Text.assemble((text, style), rest)
