"""Miniatures of the language tasks: folders of files written from the prose that is on every machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from dataecho.report.progress_bar import Advance
from dataecho.sources.index_store import user_cache_folder
from dataecho_tasks.shared.text.prose import Page, files, pages
from dataecho_tasks.shared.written_once import written_once

#: Writes files into a folder, from all pages of prose.
Write = Callable[[Path, list[Page]], None]

_DISTRIBUTIONS = ("numpy", "scipy", "scikit-learn", "matplotlib")
_VERSION = 1  # of what is written: another number, another folder
_TIME = 1_000_000_000  # seconds: the same bytes have the same time of change, by which indexes know them


def written_from_prose(kind: str, facts: str, write: Write, *, cache_dir: str | None) -> Path:
    """``~/.cache/dataecho/<kind>/<facts>-<...>``, or below ``cache_dir``, with what ``write(folder, pages)`` puts
    there, once (see :mod:`dataecho_tasks.shared.written_once`). Prose of other versions is another folder."""

    def fill(folder: Path, tell: Advance) -> None:
        folder.mkdir()
        write(folder, list(pages(tell)))
        for path in folder.rglob("*"):
            os.utime(path, (_TIME, _TIME))

    installed = " ".join(f"{name}-{version(name)}" for name in _DISTRIBUTIONS)
    return written_once(
        facts,
        fill,
        root=Path(cache_dir).expanduser() if cache_dir is not None else user_cache_folder() / kind,
        version=f"{installed} {_VERSION}",
        num_examples=len(files()),
        title="reading prose",
    )
