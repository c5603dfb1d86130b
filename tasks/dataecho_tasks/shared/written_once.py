"""Data that are made here: written by whoever asks first, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from dataecho.report.progress_bar import Advance, progress_bar
from dataecho.sources.index_store import user_cache_folder


def cache_folder(cache_dir: str | None) -> Path:
    """The folder that ``cache_dir`` names; None: ``~/.cache/dataecho``, or where ``XDG_CACHE_HOME`` says."""
    return Path(cache_dir).expanduser() if cache_dir is not None else user_cache_folder()


def written_once(
    facts: str,
    write: Callable[[Path, Advance], object],
    *,
    root: Path,
    version: int | str,
    num_examples: int,
    title: str,
) -> Path:
    """The folder below ``root`` that ``write(folder, tell)`` fills with what ``facts`` say. If it is there, nothing is
    done; another process that asks meanwhile waits; what an interrupted one has left is removed. Another ``version`` of
    the writer is another folder. A bar with ``title`` shows how many of ``num_examples`` were told of."""
    folder = root / f"{facts}-{hashlib.sha256(f'{facts} {version}'.encode()).hexdigest()[:8]}"
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _write_at_once(folder, write, num_examples=num_examples, title=title)
    return folder


def _write_at_once(folder: Path, write: Callable[[Path, Advance], object], *, num_examples: int, title: str) -> None:
    """The folder is there when it is complete: whoever sees it need not ask."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with progress_bar(f"{title} to {folder.parent}", total=num_examples) as tell:
        write(unfinished, tell)
    unfinished.rename(folder)
