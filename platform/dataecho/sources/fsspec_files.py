"""Files of every storage but HTTP, by the calls that all of fsspec's file systems have."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

import aiohttp
from fsspec import AbstractFileSystem

from dataecho.errors import DataError
from dataecho.sources.file import Body, Files, MissingFile, Stat
from dataecho.sources.retry import Passing
from dataecho.sources.urls import is_local, shown_url, without_secrets

T = TypeVar("T")

_BLOCK = 4 * 2**20  # bytes asked for at once
#: What the file systems call a text that changes with the content, best first.
_TAGS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")
_DATES = ("LastModified", "last_modified", "updated", "mtime", "created")
_FINAL = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG)


class FsspecFiles(Files):
    """Through ``info``, ``cat_file`` and ``glob``. A range of a file tells nothing of the file: its tag is unknown."""

    def __init__(self, filesystem: AbstractFileSystem) -> None:
        self._filesystem = filesystem

    def stat(self, url: str) -> Stat:
        info = _attempt(url, lambda: self._filesystem.info(url))
        if info.get("type") == "directory":
            raise DataError(f"{shown_url(url)} is a folder, not a file. Name the files in it: {shown_url(url)}/*.")
        size = info.get("size")
        tag, date = (next((str(info[name]) for name in names if info.get(name)), "") for names in (_TAGS, _DATES))
        return Stat(int(size) if size is not None else None, tag, date)

    def read(self, url: str, start: int, length: int | None) -> tuple[bytes, Stat]:
        end = None if length is None else start + length
        return _attempt(url, lambda: self._filesystem.cat_file(url, start=start, end=end)), Stat(None, "")

    def open(self, url: str, start: int) -> Body:
        return _Blocks(self, url, start)

    def glob(self, pattern: str) -> list[str]:
        paths = _attempt(pattern, lambda: self._filesystem.glob(pattern))
        return list(paths) if is_local(pattern) else [self._filesystem.unstrip_protocol(path) for path in paths]


class _Blocks(Body):
    """A file, block by block: these file systems have no stream that could be taken up again."""

    def __init__(self, files: FsspecFiles, url: str, start: int) -> None:
        self._files, self._url, self._position = files, url, start
        self._stat = files.stat(url)

    @property
    def stat(self) -> Stat:
        return self._stat

    def read(self) -> bytes | None:
        length = _BLOCK if self._stat.size is None else min(_BLOCK, self._stat.size - self._position)
        if length <= 0:
            return None
        data, _ = self._files.read(self._url, self._position, length)
        self._position += len(data)
        return data or None

    def close(self) -> None:
        pass


def _attempt(url: str, action: Callable[[], T]) -> T:
    where = shown_url(url)
    try:
        return action()
    except FileNotFoundError:
        raise MissingFile(f"{where}: there is no such file. Check the path; the file may have been moved.") from None
    except Exception as error:
        text = without_secrets(f"{type(error).__name__}: {error}".partition("\n")[0], url)[:300]
        final = is_local(url) or (isinstance(error, OSError) and error.errno in _FINAL)
        if final or not isinstance(error, OSError | TimeoutError | aiohttp.ClientError):
            raise DataError(f"{where}: {text}. Check the path, and that it may be read.") from None
        raise Passing(text) from None
