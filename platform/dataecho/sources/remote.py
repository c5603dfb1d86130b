"""Read files by path or URL, and retry transient failures. What is not of this machine goes through fsspec.

Tested with local paths, ``memory://``, ``http://`` and ``https://``, with ``s3://`` (s3fs) against moto's S3 and with
``gs://`` (gcsfs) against an emulator. The rest goes through the same few calls of fsspec's interface (``info``,
``cat_file``, ``glob``), with the packages that it names, and is not tested here.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from dataecho.errors import DataError, SettingError, require
from dataecho.extras import cure_of_missing, package
from dataecho.sources.file import UNKNOWN, Body, Files, MissingFile, Stat, require_same
from dataecho.sources.local_files import LocalFiles, literal_folder
from dataecho.sources.options import RemoteOptions
from dataecho.sources.retry import Proceed, RetryPolicy, TransientError, go_on
from dataecho.sources.urls import (
    expanded,
    in_order,
    is_http,
    is_local,
    is_pattern,
    protocol,
    shown_url,
    without_secrets,
)

__all__ = ["MissingFile", "Remote", "Stat", "Stream"]

Urls = list[str]


class Remote:
    """Files by path or URL. Thread-safe, and may be pickled: every process opens connections of its own.

    A transient failure (a reset, a time-out, HTTP 408, 425, 429, 500, 502, 503, 504) is followed by more attempts, see
    :class:`dataecho.sources.retry.RetryPolicy`; only the thread that needs the answer waits. Every other failure is a
    :class:`DataError` at once; for a file that does not exist it is a :class:`MissingFile`. Errors name a URL without
    user, password and query.
    """

    def __init__(self, options: RemoteOptions | None = None) -> None:
        self._options = options or RemoteOptions()
        self._retries = RetryPolicy(num_retries=self._options.num_retries, first_delay=self._options.first_delay)
        self._files: dict[tuple[int, str], Files] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def is_local(self, url: str) -> bool:
        """Whether this is a path of this machine, which never needs to be brought here."""
        return is_local(url)

    def read(self, url: str) -> bytes:
        """The whole file."""
        files = self._of(url)
        return self._retries.run(url, lambda: files.read(url, 0, None)[0])

    def read_range(self, url: str, start: int, length: int, *, expected: Stat | None = None) -> bytes:
        """``length`` bytes from ``start`` on. Raises :class:`DataError` where there are fewer, and where the file is
        not the one that was ``expected``. From a server without ranges it costs all bytes up to there."""
        if length == 0:
            return b""
        files = self._of(url)
        data, stat = self._retries.run(url, lambda: files.read(url, start, length))
        if expected is not None:
            if stat == UNKNOWN:  # asked for behind the bytes: before them, the file could be replaced in between
                stat = self.stat(url)
            cure = "Start a new run with the new file."
            self.require_same(url, expected, stat, when="when it was indexed", cure=cure)
        if len(data) != length:
            raise DataError(
                f"{shown_url(url)}: {length} bytes from byte {start} on were asked for, {len(data)} came. The file is "
                "cut short, or not the one that was indexed: bring the whole file there again."
            )
        return data

    def stream(self, url: str, *, proceed: Proceed = go_on, start: int = 0) -> Stream:
        """The file from ``start`` on, in pieces as they come."""
        files = self._of(url)
        return Stream(
            url,
            lambda position: files.open(url, position),
            self._retries,
            require_same=self.require_same,
            proceed=proceed,
            start=start,
        )

    def stat(self, url: str) -> Stat:
        """Size and tag, without the content."""
        files = self._of(url)
        return self._retries.run(url, lambda: files.stat(url))

    def require_same(self, url: str, before: Stat, now: Stat, *, when: str, cure: str) -> None:
        """Raise :class:`DataError` where a file is not what it was, by what counts here; both are named."""
        if self._options.ignores_etags:
            before, now = before.without_etag(), now.without_etag()
        require_same(url, before, now, when=when, cure=cure)

    def list(self, pattern: str | Sequence[str]) -> Urls:
        """Every URL that is meant, sorted by what is no secret in it: of one pattern or several, with braces
        (``train-{0000..0099}.tar``) and stars, which are looked up. Raises :class:`SettingError` for a URL that comes
        twice, :class:`MissingFile` where nothing matches."""
        patterns = [pattern] if isinstance(pattern, str) else pattern
        urls = [url for one in patterns for text in _expanded_unless_there(str(one)) for url in self._matching(text)]
        repeated = in_order(url for url, times in Counter(urls).items() if times > 1)
        require(
            not repeated,
            "urls",
            ", ".join(map(shown_url, repeated[:3])) + (f" and {len(repeated) - 3} more" if len(repeated) > 3 else ""),
            allowed="every file once",
            cure="Remove the repetition.",
        )
        return in_order(urls)

    def _matching(self, pattern: str) -> Urls:
        _, rest = literal_folder(pattern)
        if not is_pattern(rest):
            return [pattern]
        files = self._of(pattern)
        urls = self._retries.run(pattern, lambda: files.glob(pattern))
        if not urls:
            raise MissingFile(f"{shown_url(pattern)}: no file matches. Check the folder and the pattern.")
        return urls

    def _of(self, url: str) -> Files:
        key = (os.getpid(), protocol(url))  # a forked process must not use its parent's connections
        with self._lock:
            if key not in self._files:
                self._files[key] = self._opened(url)
            return self._files[key]

    def _opened(self, url: str) -> Files:
        if is_local(url):
            return LocalFiles()
        # What asks a storage is imported where one is asked: files of this machine need neither package.
        fsspec = package("fsspec", key="url", value=shown_url(url))
        options = self._options.filesystem_options
        is_s3 = protocol(url) in ("s3", "s3a")
        if is_s3:  # s3fs and botocore would try again and again by themselves, and nobody could tell them to give up
            options.setdefault("config_kwargs", {"retries": {"max_attempts": 0}})
        if is_http(url):
            aiohttp = package("aiohttp", key="url", value=shown_url(url))
            # None in all: a large shard on a slow link may take hours, as long as bytes come.
            timeout = self._options.timeout
            limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
            options = {"timeout": limit, **options}
        try:
            filesystem = fsspec.filesystem(protocol(url), skip_instance_cache=True, **options)
        except (ImportError, ValueError) as error:
            raise SettingError(
                "url",
                shown_url(url),
                allowed="local paths and the URLs that fsspec can open here",
                cure=without_secrets(cure_of_missing(error), url),
            ) from None
        if is_s3:
            filesystem.retries = 1
        if is_http(url):
            from dataecho.sources.http_files import HttpFiles

            return HttpFiles(filesystem)
        from dataecho.sources.fsspec_files import FsspecFiles

        return FsspecFiles(filesystem)


class Stream(Iterator[bytes]):
    """The bytes of one file in order, in pieces, each byte once; a context manager.

    One request for all, where the storage streams (HTTP); after a failure that may pass, another from where the first
    broke off. ``proceed`` is called before every piece, and while it waits. Raises :class:`DataError` where the file
    ends before its size, or changes on the way.
    """

    def __init__(
        self,
        url: str,
        open_at: Callable[[int], Body],
        retries: RetryPolicy,
        *,
        require_same: Callable[..., None],
        proceed: Proceed,
        start: int,
    ) -> None:
        self._url, self._open_at, self._retries, self._proceed = url, open_at, retries, proceed
        self._require_same = require_same
        self._position = start
        self._body: Body | None = None
        self._stat: Stat | None = None
        self._num_failures = 0

    @property
    def stat(self) -> Stat:
        """Of the whole file; asks for it, where nothing was read yet."""
        while self._stat is None:
            self._proceed()
            try:
                self._opened()
            except TransientError as failure:
                self._recover(failure)
        return self._stat

    def __next__(self) -> bytes:
        while True:
            self._proceed()
            try:
                piece = self._next_piece()
            except TransientError as failure:
                self._recover(failure)
                continue
            if piece is None:
                self.close()
                raise StopIteration
            if piece:
                self._position += len(piece)
                self._num_failures = 0
                return piece

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more is wanted."""
        if self._body is not None:
            self._body.close()
            self._body = None

    def _next_piece(self) -> bytes | None:
        body = self._opened()
        piece = body.read()
        if piece is None and body.stat.size not in (None, self._position):
            raise TransientError(f"it ended at byte {self._position} of {body.stat.size}")
        return piece

    def _recover(self, failure: TransientError) -> None:
        self.close()
        self._retries.wait(self._url, self._num_failures, failure, proceed=self._proceed)
        self._num_failures += 1

    def _opened(self) -> Body:
        if self._body is None:
            self._body = self._open_at(self._position)
            if self._stat is None:
                self._stat = self._body.stat
            cure = "Start again, when nobody writes to it."
            self._require_same(self._url, self._stat, self._body.stat, when="when its first bytes were read", cure=cure)
        return self._body


def _expanded_unless_there(pattern: str) -> Sequence[str]:
    """The paths that braces stand for, except those in the names of folders and files that are there."""
    folder, rest = literal_folder(pattern)
    return [folder + text for text in expanded(rest)]
