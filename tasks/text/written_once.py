"""A folder of files that is written by whoever asks first, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from dataecho.sources.index_store import user_cache_folder
from tasks.text.prose import Page, files, pages

#: Writes files into a folder, from all pages of prose.
Write = Callable[[Path, list[Page]], None]

_DISTRIBUTIONS = ("numpy", "scipy", "scikit-learn", "matplotlib")
_VERSION = 1  # of what is written: another number, another folder
_TIME = 1_000_000_000  # seconds: the same bytes have the same time of change, by which indexes know them


def written_once(kind: str, facts: str, write: Write, *, cache_dir: str | None) -> Path:
    """``~/.cache/dataecho/<kind>/<facts and versions>``, or below ``cache_dir``, with what ``write(folder, pages)``
    puts there. Another process that asks meanwhile waits; what was interrupted is begun anew."""
    installed = " ".join(f"{name}-{version(name)}" for name in _DISTRIBUTIONS)
    name = f"{facts}-{hashlib.sha256(f'{facts} {installed} {_VERSION}'.encode()).hexdigest()[:8]}"
    parent = Path(cache_dir).expanduser() if cache_dir is not None else user_cache_folder() / kind
    folder = parent / name
    if not folder.exists():
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _write_at_once(folder, write)
    return folder


def _write_at_once(folder: Path, write: Write) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        shown = bar.add_task(f"reading prose for {folder.parent}", total=len(files()))
        write(unfinished, list(pages(lambda read: bar.advance(shown, read))))
    for path in unfinished.rglob("*"):
        os.utime(path, (_TIME, _TIME))
    unfinished.rename(folder)
