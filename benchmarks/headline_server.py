"""A web server on a limited line: nginx, as packaged (``apt-get install nginx-light``), unprivileged, on 127.0.0.1.

The limit is one of nginx's for each connection, and the number of connections is limited as well: below ``/1/`` one
connection has all of the line, below ``/2/`` and ``/4/`` each has its part of it, and one more is answered with 503.
After every twentieth of a second's bytes comes their pause, so what a client leaves unused is lost, except for what the
system's buffers between the two hold. Two things follow. A connection between two shards leaves its part unused, which
a real line would give to the others; and one connection alone leaves all of it unused.
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

NUM_CONNECTIONS = (1, 2, 4)
_PIECES_PER_SECOND = 20
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
    limit_conn_zone $server_addr zone=line:1m;
    server {{
        listen 127.0.0.1:{port} sndbuf=1m;
        {locations}
    }}
}}
"""
_LOCATION = """
        location /{number}/ {{
            alias {shards}/; limit_conn line {number}; limit_rate {rate}; sendfile_max_chunk {piece};
        }}"""


@dataclass(frozen=True)
class Traffic:
    """``num_bytes`` sent; ``busy_seconds`` in which a request was being answered."""

    num_bytes: int
    busy_seconds: float


class Server:
    """nginx while the context lasts, with a folder of ``shards`` behind ``bytes_per_second``."""

    def __init__(self, shards: Path, *, bytes_per_second: float) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit("nginx is missing: apt-get install -y nginx-light")
        self._program, self._shards, self._rate = program, shards.resolve(), bytes_per_second
        self._folder = Path(tempfile.mkdtemp(prefix="headline-nginx-"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]

    def __enter__(self) -> Server:
        locations = [self._location(number) for number in NUM_CONNECTIONS]
        config = self._folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=self._folder, port=self._port, locations="".join(locations)))
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

    def url(self, *, num_connections: int) -> str:
        """The folder of the shards, for so many connections at once: one of ``NUM_CONNECTIONS``."""
        return f"http://127.0.0.1:{self._port}/{num_connections}"

    def take_traffic(self) -> Traffic:
        """What was sent since the last call."""
        log = self._folder / "access.log"
        lines = [line.split() for line in log.read_text().splitlines()]
        with open(log, "w"):
            pass  # nginx appends
        spans = sorted((float(end) - float(spent), float(end)) for end, spent, _, _, _ in lines)
        return Traffic(num_bytes=sum(int(line[2]) for line in lines), busy_seconds=_covered(spans))

    def _location(self, number: int) -> str:
        rate = self._rate / number
        return _LOCATION.format(
            number=number, shards=self._shards, rate=round(rate), piece=round(rate / _PIECES_PER_SECOND)
        )


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in at least one of the spans, which are sorted."""
    total, until = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
