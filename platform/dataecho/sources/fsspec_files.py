"""Files of every storage but this machine and HTTP, by the calls that all of fsspec's file systems have.

The file systems raise what their own libraries raise, which are not imported here: an error is known by the names of
its classes, by its number, or by the HTTP status it has.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec import AbstractFileSystem

from dataecho.errors import DataError
from dataecho.sources.file import UNKNOWN, Blocks, Body, Files, MissingFile, Stat
from dataecho.sources.retry import TransientError
from dataecho.sources.urls import shown_url, without_secrets

T = TypeVar("T")

#: What the file systems call a text that changes with the content, best first.
_TAGS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")
_DATES = ("LastModified", "last_modified", "updated", "mtime", "created")
#: Errors of this machine and of a server that no waiting helps against.
_FINAL = (
    errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSYS, errno.ELOOP,
    getattr(errno, "EREMCHG", errno.EINVAL),  # another region, as s3fs tells it
)  # fmt: skip
_FINAL_KINDS = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, ssl.SSLError)
#: Of botocore (s3fs) and of Google's libraries (gcsfs): classes of errors that may pass.
_PASSING_NAMES = frozenset(
    {"ConnectionError", "HTTPClientError", "IncompleteReadError", "ResponseParserError", "TransportError", "Timeout"}
)
_FINAL_NAMES = frozenset({"SSLError"})
_PASSING_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED_CODES = frozenset({401, 403, 407})
_CHECK = "Check the path, and that it may be read."
_CREDENTIALS = (
    "Give credentials that may read it: in storage_options (key, secret, token, ... of the file system), in the "
    "environment, or in the files of the storage's own tools; anon=true there reads what is public."
)


class FsspecFiles(Files):
    """Through ``info``, ``cat_file`` and ``glob``. What is read of a file tells nothing of the file: its size and tag
    are unknown."""

    def __init__(self, filesystem: AbstractFileSystem) -> None:
        self._filesystem = filesystem

    def stat(self, url: str) -> Stat:
        info = _attempt(url, lambda: self._info(url))
        if info.get("type") == "directory":
            raise DataError(f"{shown_url(url)} is a folder, not a file. Name the files in it: {shown_url(url)}/*.")
        size = info.get("size")
        tag, date = (next((str(info[name]) for name in names if info.get(name)), "") for names in (_TAGS, _DATES))
        return Stat(int(size) if size is not None else None, tag, date)

    def _info(self, url: str) -> dict[str, Any]:
        self._filesystem.invalidate_cache()  # of listings, which may be older than the file
        return dict(self._filesystem.info(url))

    def read(self, url: str, start: int, length: int | None) -> tuple[bytes, Stat]:
        end = None if length is None else start + length
        return _attempt(url, lambda: self._range(url, start, end)), UNKNOWN

    def _range(self, url: str, start: int, end: int | None) -> bytes:
        try:
            data: bytes = self._filesystem.cat_file(url, start=start, end=end)
            return data
        except Exception as error:
            if end is not None and "not satisfiable" in str(error):  # it begins behind the end of the file
                return b""
            raise

    def open(self, url: str, start: int) -> Body:
        return Blocks(self, url, start)

    def glob(self, pattern: str) -> list[str]:
        paths = _attempt(pattern, lambda: self._filesystem.glob(pattern))
        return [self._filesystem.unstrip_protocol(path) for path in paths]


def _attempt(url: str, action: Callable[[], T]) -> T:
    where = shown_url(url)
    try:
        return action()
    except FileNotFoundError:
        raise MissingFile(f"{where}: there is no such file. Check the path; the file may have been moved.") from None
    except Exception as error:
        text = without_secrets(f"{type(error).__name__}: {error}".partition("\n")[0], url)[:300]
        if _is_refusal(error):
            raise DataError(f"{where}: {text}. {_CREDENTIALS}") from None
        if not _may_pass(error):
            raise DataError(f"{where}: {text}. {_CHECK}") from None
        raise TransientError(text) from None


def _is_refusal(error: Exception) -> bool:
    """Whether credentials are missing, or do not suffice."""
    names = _names(error)
    missing = any("Credential" in name for name in names) or "RefreshError" in names
    return missing or isinstance(error, PermissionError) or _code(error) in _REFUSED_CODES


def _may_pass(error: Exception) -> bool:
    names = _names(error)
    if isinstance(error, _FINAL_KINDS) or names & _FINAL_NAMES:
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in _FINAL
    code = _code(error)
    if code is not None:
        return code in _PASSING_CODES
    return isinstance(error, OSError | TimeoutError) or _is_aiohttps(error) or bool(names & _PASSING_NAMES)


def _is_aiohttps(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] == "aiohttp" for kind in type(error).__mro__)


def _names(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _code(error: Exception) -> int | None:
    """The HTTP status that an error tells, None where it tells none."""
    code = str(getattr(error, "code", None) or getattr(error, "status", None))
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs
        return 403
    return int(code) if code.isdigit() else None
