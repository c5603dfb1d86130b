"""A real HTTP server over a folder, which can be told to fail, and counts what it was asked for and what it sent."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_PIECE = 16 * 2**10


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of the usual. ``status``: this answer, with ``retry_after`` in its head.
    After ``after`` bytes of the body ``reset`` breaks the connection, ``stall`` sends nothing more, ``cut`` ends it."""

    status: int | None = None
    retry_after: str | None = None
    kind: str | None = None
    after: int = 0


class HttpServer:
    """Serves ``folder`` on 127.0.0.1. ``faults[path]`` are used up by the next requests for it; ``forever`` stays.
    ``rate``: bytes per second of every connection; ``ranges``: whether it knows them. ``requests`` and ``num_bytes``
    (of bodies) are counted by path. ``get?file=a.tar`` is the file ``a.tar``. ``token``: what a query must have as its
    ``token`` or ``X-Amz-Signature``, else the answer is 403. ``etag``: how ETags are written. ``context``: a TLS
    context of its own, for HTTPS."""

    def __init__(self, folder: Path, *, context: ssl.SSLContext | None = None) -> None:
        self.folder = folder
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.forever: dict[str, Fault] = {}
        self.rate: float | None = None
        self.ranges = True
        self.refuses_head = False
        self.token: str | None = None
        self.etag = '"{}"'
        self.requests: Counter[str] = Counter()
        self.methods: list[tuple[str, str, str | None]] = []
        self.num_bytes: Counter[str] = Counter()
        self.released = threading.Event()
        self.lock = threading.Lock()

        class Handler(_Handler):
            files = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http" if context is None else "https"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, path: str, *faults: Fault) -> None:
        self.faults[path].extend(faults)

    def reset_counts(self) -> None:
        self.requests.clear()
        self.num_bytes.clear()
        self.methods.clear()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every small answer waits 40 ms for an acknowledgement
    files: HttpServer

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        server, url = self.files, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = query.get("file", url.path.lstrip("/"))
        with server.lock:
            server.requests[path] += 1
            server.methods.append((self.command, path, self.headers.get("Range")))
            waiting = server.faults[path]
            fault = waiting.popleft() if waiting else server.forever.get(path, Fault())
        if fault.status is not None:
            return self._refuse(fault.status, fault.retry_after)
        if server.token is not None and server.token not in (query.get("token"), query.get("X-Amz-Signature")):
            return self._refuse(403, None)
        if self.command == "HEAD" and server.refuses_head:
            return self._refuse(405, None)
        file = server.folder / path
        if file.is_dir():
            return self._list(file, body=body)
        if not file.is_file():
            return self._refuse(404, None)
        data, stat = file.read_bytes(), file.stat()
        wanted = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "") if server.ranges else None
        start, end = 0, len(data)
        if wanted:
            start = int(wanted[1])
            end = min(end, int(wanted[2]) + 1 if wanted[2] else end)
            if start >= len(data):
                return self._refuse(416, None, extra={"Content-Range": f"bytes */{len(data)}"})
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", server.etag.format(f"{stat.st_mtime_ns:x}-{len(data):x}"))
        self.send_header("Last-Modified", email.utils.formatdate(stat.st_mtime, usegmt=True))
        self.end_headers()
        if body:
            self._send(path, data[start:end], fault)

    def _send(self, path, data, fault):
        server = self.files
        stop = len(data) if fault.kind is None else min(fault.after, len(data))
        try:
            for start in range(0, stop, _PIECE):
                piece = data[start : min(start + _PIECE, stop)]
                with server.lock:  # before they can have arrived: whoever has all of them may look at once
                    server.num_bytes[path] += len(piece)
                self.wfile.write(piece)
                if server.rate is not None:
                    time.sleep(len(piece) / server.rate)
        except OSError:  # the client left
            self.close_connection = True
            return
        if fault.kind is None:
            return
        self.close_connection = True
        if fault.kind == "stall":
            server.released.wait(30)
        elif fault.kind == "reset":
            time.sleep(0.05)  # what was sent is to be received: a reset throws away what lies in the receiver's queue
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _refuse(self, status, retry_after, extra=None):
        self.send_response(status)
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _list(self, folder, *, body):
        page = "".join(f'<a href="{file.name}">{file.name}</a>\n' for file in sorted(folder.iterdir())).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if body:
            self.wfile.write(page)
