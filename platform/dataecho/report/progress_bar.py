"""A progress bar for work before the first result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import MofNCompleteColumn, Progress

from dataecho.report.console import new_console

#: Adds an amount of finished work.
Advance = Callable[[float], None]


@contextmanager
def progress_bar(title: str, *, total: float | None) -> Iterator[Advance]:
    """Show the finished part of ``total`` (None: unknown) on a terminal, and nothing elsewhere. The bar disappears at
    the end."""
    console = new_console(stderr=True)
    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        shown = bar.add_task(title, total=total)
        yield lambda done: bar.advance(shown, done)
