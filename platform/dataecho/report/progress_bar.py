"""A bar for work that takes a while before anything else can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import MofNCompleteColumn, Progress

from dataecho.report.console import new_console

#: Tells how much more has been done.
Advance = Callable[[float], None]


@contextmanager
def progress_bar(title: str, *, total: float | None) -> Iterator[Advance]:
    """Shows on a terminal, and nowhere else, how much of ``total`` (None: nobody knows) was told of; gone when it is
    done."""
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
