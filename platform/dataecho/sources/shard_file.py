"""The bytes of one shard at any place, whether it lies here or not."""

from __future__ import annotations

import abc
import io
import os
from pathlib import Path
from typing import Any

from dataecho.errors import DataError
from dataecho.posix import require_posix
from dataecho.sources.file import MissingFile, Stat, cure_of
from dataecho.sources.remote import Remote


class ShardFile(abc.ABC):
    """Thread-safe."""

    @property
    @abc.abstractmethod
    def stat(self) -> Stat:
        """Of the file that is read."""

    @abc.abstractmethod
    def read_at(self, start: int, length: int) -> bytes:
        """Exactly these bytes. Raises :class:`DataError` where there are fewer."""


class LocalFile(ShardFile):
    """A file of this machine; stays open, and the same, until nobody refers to it, even if it is removed meanwhile."""

    def __init__(self, path: str | Path) -> None:
        self._path, self._descriptor = path, -1
        require_posix("urls", path, cure="Use files of one example each, or a map-style dataset.")
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise MissingFile(f"{path}: there is no such file. Check the path; it may have been moved.") from None
        except OSError as error:
            cure = cure_of(error, otherwise="Check the path.")
            raise DataError(f"{path}: {error.strerror}. {cure}") from None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    @property
    def stat(self) -> Stat:
        found = os.fstat(self._descriptor)
        return Stat(found.st_size, str(found.st_mtime_ns))

    def read_at(self, start: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, start)
            while len(data) < length and (more := os.pread(self._descriptor, length - len(data), start + len(data))):
                data += more
        except OSError as error:
            raise DataError(f"{self._path}: {error.strerror}. Look at the disk.") from None
        if len(data) < length:
            raise DataError(
                f"{self._path}: {length} bytes from byte {start} on were asked for, {len(data)} are there. The file "
                "was cut short: bring the whole file there again."
            )
        return data


class FarFile(ShardFile):
    """A file that is not here: every read is a request for a range."""

    def __init__(self, remote: Remote, url: str, stat: Stat) -> None:
        self._remote, self._url, self._stat = remote, url, stat

    @property
    def stat(self) -> Stat:
        return self._stat

    def read_at(self, start: int, length: int) -> bytes:
        return self._remote.read_range(self._url, start, length, expected=self._stat)


class FileView(io.RawIOBase):
    """A shard as the kind of object that libraries read files from; a position of its own."""

    def __init__(self, file: ShardFile) -> None:
        self._file, self._position, self._size = file, 0, file.stat.size or 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        length = min(len(view), max(0, self._size - self._position))
        view[:length] = self._file.read_at(self._position, length)
        self._position += length
        return length
