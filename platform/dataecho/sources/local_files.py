"""Files of this machine."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from dataecho.errors import DataError
from dataecho.sources.file import UNKNOWN, Blocks, Body, Files, MissingFile, Stat
from dataecho.sources.urls import is_local, local_path, shown_url

T = TypeVar("T")


class LocalFiles(Files):
    """Through ``os``. A file's tag is its time of change. What is read of a file tells nothing of the file: its size
    and tag are unknown."""

    def stat(self, url: str) -> Stat:
        facts = _attempt(url, lambda: os.stat(local_path(url)))
        if stat.S_ISDIR(facts.st_mode):
            raise DataError(f"{shown_url(url)} is a folder, not a file. Name the files in it: {shown_url(url)}/*.")
        changed = str(facts.st_mtime)
        return Stat(facts.st_size, changed, changed)

    def read(self, url: str, start: int, length: int | None) -> tuple[bytes, Stat]:
        return _attempt(url, lambda: _range(local_path(url), start, length)), UNKNOWN

    def open(self, url: str, start: int) -> Body:
        return Blocks(self, url, start)

    def glob(self, pattern: str) -> list[str]:
        folder, rest = literal_folder(pattern)
        root = local_path(folder)
        return [os.path.join(root, path) for path in glob.glob(rest, root_dir=root, recursive=True)]


def _range(path: str, start: int, length: int | None) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(-1 if length is None else length)


def _attempt(url: str, action: Callable[[], T]) -> T:
    where = shown_url(url)
    try:
        return action()
    except FileNotFoundError:
        raise MissingFile(f"{where}: there is no such file. Check the path; the file may have been moved.") from None
    except OSError as error:
        text = f"{type(error).__name__}: {error}"
        raise DataError(f"{where}: {text}. Check the path, and that it may be read.") from None


def literal_folder(pattern: str) -> tuple[str, str]:
    """The longest beginning of a local pattern that is there under just this name, and the rest. In it braces,
    brackets and stars stand for themselves."""
    if not is_local(pattern):
        return "", pattern
    if os.path.exists(local_path(pattern)):
        return pattern, ""
    end = pattern.rfind("/") + 1
    while end and not os.path.isdir(local_path(pattern[:end])):
        end = pattern.rfind("/", 0, end - 1) + 1
    return pattern[:end], pattern[end:]
