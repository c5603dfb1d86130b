"""A web server on a limited line: nginx, as packaged (``apt-get install nginx-light``), unprivileged, on 127.0.0.1.

nginx's limit of bytes is one for each connection, so the line is limited by requests: whoever asks, and by however many
connections, gets one shard after the other, each at the earliest a shard's time on the line after the one before
(``limit_req``, which delays those that come sooner). The shards are equally large within 2 %. Each connection is also
limited to twice the line, so that a shard does not come at once. A line that nobody asked for anything is lost time;
what a client has asked for already comes while it pauses, and waits for it in the system's buffers.
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

_PIECES_PER_SECOND = 20
_MOST_WAITING = 64  # requests; one more is answered with 503
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
    limit_req_zone $server_addr zone=line:1m rate={shards_per_minute}r/m;
    server {{
        listen 127.0.0.1:{port};
        root {shards};
        limit_req zone=line burst={waiting};
        limit_rate {rate};
        sendfile_max_chunk {piece};
    }}
}}
"""


@dataclass(frozen=True)
class Traffic:
    """``num_bytes`` sent for ``num_requests``; ``busy_seconds`` in which a request was being answered; ``num_refused``
    requests."""

    num_bytes: int
    num_requests: int
    busy_seconds: float
    num_refused: int


class Server:
    """nginx while the context lasts, with a folder of ``shards`` behind ``bytes_per_second``."""

    def __init__(self, shards: Path, *, bytes_per_second: float) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit("nginx is missing: apt-get install -y nginx-light")
        self._program, self._shards, self._rate = program, shards.resolve(), bytes_per_second
        sizes = [path.stat().st_size for path in shards.iterdir()]
        self._shard_bytes = sum(sizes) / len(sizes)
        self._folder = Path(tempfile.mkdtemp(prefix="headline-nginx-"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]

    def __enter__(self) -> Server:
        config = self._folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                folder=self._folder,
                port=self._port,
                shards=self._shards,
                shards_per_minute=round(60 * self._rate / self._shard_bytes),
                rate=round(2 * self._rate),
                piece=round(2 * self._rate / _PIECES_PER_SECOND),
                waiting=_MOST_WAITING,
            )
        )
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
        """What was sent since the last call."""
        log = self._folder / "access.log"
        lines = [line.split() for line in log.read_text().splitlines()]
        with open(log, "w"):
            pass  # nginx appends
        spans = sorted((float(end) - float(spent), float(end)) for end, spent, _, _, _ in lines)
        return Traffic(
            num_bytes=sum(int(line[2]) for line in lines),
            num_requests=len(lines),
            busy_seconds=_covered(spans),
            num_refused=sum(line[3] == "503" for line in lines),
        )


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in at least one of the spans, which are sorted."""
    total, until = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
