"""Facts about a file, local or remote, and the interface to read one from front to back."""

from __future__ import annotations

import abc
import errno
from dataclasses import dataclass

from dataecho.errors import DataError
from dataecho.sources.urls import shown_url

#: What has nothing to do with the path that was asked for.
_CURES = {
    errno.ELOOP: "A link on its way leads back to itself: remove that link.",
    errno.EMFILE: "This process has too many files open: raise the limit (ulimit -n 4096) and start it again.",
    errno.ENFILE: "This machine has too many files open: close programs, or raise its limit.",
    errno.EACCES: "Give this user the right to read it.",
    errno.EPERM: "Give this user the right to read it.",
    errno.EIO: "Look at the disk.",
    errno.ESTALE: "Look at the server that the folder is mounted from.",
}


def cure_of(error: OSError, *, otherwise: str) -> str:
    """The cure for ``error`` of an attempt to open, read or list a file."""
    return _CURES.get(error.errno or 0, otherwise)


def concerns_one_file(error: OSError) -> bool:
    """Whether other files may be read all the same."""
    return error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


_BLOCK = 4 * 2**20  # bytes asked for at once


class MissingFile(DataError):
    """The storage answers, and has no such file."""


#: The entry of a source's ``storage_options`` that accepts other tags of a file of the same size and date.
IGNORE_ETAGS = "ignore_etags"


@dataclass(frozen=True)
class Stat:
    """``size`` in bytes, None where the storage does not say; ``tag``: a text that differs when the content does (the
    server's ETag, else a time of change), empty where there is none; ``date``: the time of change that the server says
    besides its ETag, empty where it says none."""

    size: int | None
    tag: str
    date: str = ""

    def differs(self, other: Stat) -> bool:
        """Whether both cannot be the same content, by what is known of both. A weak ETag (``W/"..."``) is that of a
        server which may have compressed the same content on its way."""
        return self._differs_in_size(other) or bool(self.tag and other.tag and _strong(self.tag) != _strong(other.tag))

    def without_etag(self) -> Stat:
        """By size and date alone."""
        return Stat(self.size, self.date, self.date)

    def may_be_another_copy(self, other: Stat) -> bool:
        """Whether size and date are known and the same, and the tags alone differ: another server's copy, or another
        content."""
        known = self.size is not None and self.date and other.date
        return bool(known and not self._differs_in_size(other) and self.date == other.date and self.differs(other))

    def _differs_in_size(self, other: Stat) -> bool:
        return self.size is not None and other.size is not None and self.size != other.size

    def __str__(self) -> str:
        size = "of unknown size" if self.size is None else f"{self.size} bytes"
        tag = f", tag {self.tag}" if self.tag else ""
        return f"{size}{tag}, of {self.date}" if self.date and self.date != self.tag else size + tag


#: Where nothing is known of a file.
UNKNOWN = Stat(None, "")


def require_same(url: str, before: Stat, now: Stat, *, when: str, cure: str) -> None:
    """Raise :class:`DataError` where a file is not what it was; both are named."""
    if not before.differs(now):
        return
    if before.may_be_another_copy(now):
        cure += (
            " If it was not replaced, and several servers (of a CDN) answer with ETags of their own: "
            f"storage_options.{IGNORE_ETAGS}=true of this source goes by size and date alone "
            f"(+task.train.storage_options.{IGNORE_ETAGS}=true, and the same for task.eval)."
        )
    raise DataError(f"{shown_url(url)} has changed: it was {before} {when}, and is {now} now. {cure}")


def _strong(tag: str) -> str:
    return tag.removeprefix("W/")


class Body(abc.ABC):
    """A file that is being read, from some position on, in one attempt."""

    @property
    @abc.abstractmethod
    def stat(self) -> Stat:
        """Of the whole file."""

    @abc.abstractmethod
    def read(self) -> bytes | None:
        """The next piece, of at most what came in a second; empty if nothing did; None at the end. Raises
        :class:`dataecho.sources.retry.TransientError`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Nothing more is wanted."""


class Files(abc.ABC):
    """Files of one kind of storage; one attempt each: whoever calls tries again after
    :class:`dataecho.sources.retry.TransientError`. Any other failure is a :class:`DataError`. Thread-safe."""

    @abc.abstractmethod
    def stat(self, url: str) -> Stat:
        """Size and tag, without the content."""

    @abc.abstractmethod
    def read(self, url: str, start: int, length: int | None) -> tuple[bytes, Stat]:
        """``length`` bytes from ``start`` on, fewer where the file ends; None: the whole file. With what the same
        answer tells of the file."""

    @abc.abstractmethod
    def open(self, url: str, start: int) -> Body:
        """The file from ``start`` on."""

    @abc.abstractmethod
    def glob(self, pattern: str) -> list[str]:
        """The URLs that match, in no order."""


class Blocks(Body):
    """A file, block by block, of a storage without a stream that could be taken up again."""

    def __init__(self, files: Files, url: str, start: int) -> None:
        self._files, self._url, self._position = files, url, start
        self._stat = files.stat(url)

    @property
    def stat(self) -> Stat:
        return self._stat

    def read(self) -> bytes | None:
        length = _BLOCK if self._stat.size is None else min(_BLOCK, self._stat.size - self._position)
        data = self._files.read(self._url, self._position, length)[0] if length > 0 else b""
        self._position += len(data)
        if not data:  # blocks tell nothing of the file: they could be of two
            cure = "Start again, when nobody writes to it."
            require_same(self._url, self._stat, self._files.stat(self._url), when="when it was begun", cure=cure)
        return data or None

    def close(self) -> None:
        pass
