"""Files behind HTTP, through the session of fsspec's file system: its options apply (headers, ``client_kwargs``).

Our own requests, because fsspec's say neither which status was met, nor how long the server asks to wait, nor whether
the file is still the one whose first half is already here.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import re
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem

from dataecho.errors import DataError
from dataecho.invocation import command
from dataecho.sources.file import Body, Files, MissingFile, Stat
from dataecho.sources.retry import TransientError
from dataecho.sources.urls import shown_url, without_secrets

T = TypeVar("T")

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_MISSING = frozenset({404, 410})
_REFUSED = frozenset({401, 403, 407})
#: Answers of servers that know GET and not HEAD; a signed URL may be signed for GET alone.
_NO_HEAD = frozenset({403, 405, 501})
_NO_SUCH_RANGE = 416
_CREDENTIALS = "Give credentials that may read it, in storage_options (headers or auth)."
_TRUST = (
    "Check the URL and the server; to trust a certificate of your own, name the file of certificates in the "
    f"environment: SSL_CERT_FILE=/path/to/certificates.pem {command('...')}"
)
_SIGN_ANEW = (
    "Credentials in a URL, as a signature, may be over: write a new one into it, or give others in storage_options "
    "(headers or auth). A run that was stopped goes on with the new URL: resume=<run folder>."
)
_CONTENT_RANGE = re.compile(r"^bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")

_ENOUGH = 64 * 2**10  # bytes of a piece
_AT_MOST = 2**20  # bytes that wait for a caller who is slower than the network
_PATIENCE = 0.25  # seconds to gather a piece: the caller is asked at least that often whether to go on


class HttpFiles(Files):
    """Requests run on fsspec's event loop, whichever thread asks."""

    def __init__(self, filesystem: HTTPFileSystem) -> None:
        self._filesystem = filesystem

    def stat(self, url: str) -> Stat:
        return self._run(url, lambda: self._stat(url))

    def read(self, url: str, start: int, length: int | None) -> tuple[bytes, Stat]:
        return self._run(url, lambda: self._read(url, start, length))

    def open(self, url: str, start: int) -> Body:
        return self._run(url, lambda: self._open(url, start))

    def _run(self, url: str, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return sync(self._filesystem.loop, action)
        except (ssl.SSLError, aiohttp.ClientSSLError) as error:
            raise DataError(f"{shown_url(url)}: {_told(error, url)}. {_TRUST}") from None
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
            raise DataError(f"{shown_url(url)}: {_told(error, url)}. Check the URL and the server.") from None
        except FileNotFoundError:  # from a look into a folder
            raise MissingFile(f"{shown_url(url)}: HTTP 404. Check the URL of the folder.") from None
        except aiohttp.ClientResponseError as error:
            if error.status in _REFUSED:
                raise DataError(f"{shown_url(url)}: {_told(error, url)}. {_cure(url)}") from None
            raise TransientError(_told(error, url)) from None
        except TimeoutError:
            raise TransientError("no answer in time") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise TransientError(_told(error, url)) from None

    def glob(self, pattern: str) -> list[str]:
        """From the links of the folder's page, where the server writes one."""
        return self._run(pattern, lambda: self._filesystem._glob(pattern))

    async def _stat(self, url: str) -> Stat:
        async with await self._request("head", url, {}) as response:
            if response.status not in _NO_HEAD:
                _check(response, url)
                return _stat(response)
        async with await self._request("get", url, {"Range": "bytes=0-0"}) as response:
            if response.status == _NO_SUCH_RANGE:  # an empty file has no first byte
                return _stat(response)
            _check(response, url)
            return _stat(response)

    async def _read(self, url: str, start: int, length: int | None) -> tuple[bytes, Stat]:
        if length is None:
            async with await self._request("get", url, {}) as response:
                _check(response, url)
                return await response.read(), _stat(response)
        async with await self._request("get", url, {"Range": f"bytes={start}-{start + length - 1}"}) as response:
            if response.status == _NO_SUCH_RANGE:
                return b"", _stat(response)
            _check(response, url)
            if response.status == 206:
                return await response.read(), _stat(response)
            # A server without ranges sends all from the first byte on: the end is not waited for.
            data = bytearray()
            while len(data) < start + length and (piece := await response.content.read(_AT_MOST)):
                data += piece
            response.close()
            return bytes(data[start : start + length]), _stat(response)

    async def _open(self, url: str, start: int) -> _HttpBody:
        response = await self._request("get", url, {"Range": f"bytes={start}-"} if start else {})
        try:
            _check(response, url)
            num_unwanted = start if response.status == 200 else 0  # a server without ranges sends all
            return _HttpBody(response, num_unwanted, lambda action: self._run(url, action))
        except BaseException:
            response.close()
            raise

    async def _request(self, method: str, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        session = await self._filesystem.set_session()
        options = dict(self._filesystem.kwargs)
        # Compressed on the way, a file has no byte ranges.
        options["headers"] = {**options.get("headers", {}), **headers, "Accept-Encoding": "identity"}
        return await session.request(method, self._filesystem.encode_url(url), allow_redirects=True, **options)


class _HttpBody(Body):
    """A task on the event loop empties the connection into ``_data`` at once: what aiohttp has in its buffer when the
    connection breaks is lost, and has to travel again. (So it is for a caller who is more than ``_AT_MOST`` behind.)
    Made on the event loop."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        num_unwanted: int,
        run: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any],
    ) -> None:
        self._response, self._stat, self._num_unwanted, self._run = response, _stat(response), num_unwanted, run
        self._data = bytearray()
        self._finished = False
        self._error: BaseException | None = None
        self._enough, self._room = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._pump())

    @property
    def stat(self) -> Stat:
        return self._stat

    def read(self) -> bytes | None:
        piece: bytes | None = self._run(self._taken)
        if piece and self._num_unwanted:
            skipped = min(self._num_unwanted, len(piece))
            self._num_unwanted -= skipped
            return piece[skipped:]
        return piece

    def close(self) -> None:
        self._run(self._close)

    async def _pump(self) -> None:
        try:
            while piece := await self._response.content.readany():
                self._data += piece
                if len(self._data) >= _ENOUGH:
                    self._enough.set()
                while len(self._data) >= _AT_MOST:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            self._error = error
        finally:
            self._finished = True
            self._enough.set()

    async def _taken(self) -> bytes | None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._enough.wait(), _PATIENCE)
        data, self._data = self._data, bytearray()
        self._room.set()
        if not self._finished:
            self._enough.clear()
        elif not data:  # what came before a failure is good
            if self._error is not None:
                raise self._error
            return None
        return bytes(data)

    async def _close(self) -> None:
        self._task.cancel()
        self._response.close()


def _check(response: aiohttp.ClientResponse, url: str) -> None:
    status, where = response.status, shown_url(url)
    met = f"HTTP {status} {response.reason or ''}".strip()
    if status in _PASSING:
        raise TransientError(met, retry_after=_retry_after(response.headers.get("Retry-After", "")))
    if status in _MISSING:
        raise MissingFile(f"{where}: {met}. Check the URL; the file may have been moved or removed.")
    if status in _REFUSED:
        raise DataError(f"{where}: {met}. {_cure(url)}")
    if status == _NO_SUCH_RANGE:
        raise DataError(f"{where}: {met}: the file is shorter than it was. Was it replaced? Start again.")
    if status not in (200, 206):
        raise DataError(f"{where}: {met}. Open the URL with another program and see what the server says.")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise DataError(
            f"{where}: the server sends it compressed ({encoding}), though it was asked not to, so that it has no byte "
            "ranges. Switch Content-Encoding off for it."
        )


def _cure(url: str) -> str:
    return _SIGN_ANEW if urlsplit(url).query else _CREDENTIALS


def _stat(response: aiohttp.ClientResponse) -> Stat:
    headers = response.headers
    date = headers.get("Last-Modified", "")
    tag = headers.get("ETag") or date
    found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
    if found is not None:
        return Stat(int(found[3]) if found[3] != "*" else None, tag, date)
    length = headers.get("Content-Length")
    return Stat(int(length) if length is not None and response.status == 200 else None, tag, date)


def _retry_after(value: str) -> float:
    """Seconds, or the time of a date; 0 where neither can be read."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _told(error: BaseException, url: str) -> str:
    text = str(error).strip().partition("\n")[0]
    return without_secrets(f"{type(error).__name__}: {text}" if text else type(error).__name__, url)[:300]
