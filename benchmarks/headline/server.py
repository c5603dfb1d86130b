"""A web server: nginx, as packaged (``apt-get install nginx-light``), unprivileged, on 127.0.0.1.

It sends as fast as the line takes it, on any number of connections. Its send buffers are short: what is in them counts
as sent, though the line has yet to carry it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.headline.machine import program

_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    log_format traffic '$msec $request_time $body_bytes_sent $status $uri';
    access_log {folder}/access.log traffic;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    default_type application/x-tar;
    sendfile on;
    server {{
        listen 127.0.0.1:{port} sndbuf=128k;
        root {shards};
    }}
}}
"""


@dataclass(frozen=True)
class Traffic:
    """``num_bytes`` sent; ``busy_seconds`` in which a request was being answered."""

    num_bytes: int
    busy_seconds: float


class Server:
    """nginx while the context lasts, with a folder of ``shards``."""

    def __init__(self, shards: Path) -> None:
        self._program, self._shards = program("nginx", package="nginx-light"), shards.resolve()
        self._folder = Path(tempfile.mkdtemp(prefix="headline-nginx-"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]

    def __enter__(self) -> Server:
        config = self._folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=self._folder, port=self._port, shards=self._shards))
        errors = self._folder / "error.log"  # named again: nginx may fail before it has read its configuration
        self._process = subprocess.Popen([self._program, "-p", self._folder, "-c", config, "-e", errors])
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.05)
        self._process.kill()
        raise SystemExit(f"nginx does not start:\n{errors.read_text()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)

    @property
    def process(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def url(self) -> str:
        """The folder of the shards."""
        return f"http://127.0.0.1:{self._port}"

    def take_traffic(self) -> Traffic:
        """The traffic since the last call."""
        log = self._folder / "access.log"
        lines = [line.split() for line in log.read_text().splitlines()]
        with open(log, "w"):
            pass  # nginx appends
        spans = sorted((float(end) - float(spent), float(end)) for end, spent, _, _, _ in lines)
        return Traffic(num_bytes=sum(int(line[2]) for line in lines), busy_seconds=_covered(spans))


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in at least one of the spans, which are sorted."""
    total, until = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
